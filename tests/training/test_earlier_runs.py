"""What a run of an earlier version has left, in `earlier/`, still opens and goes on.

It was 4 steps of recipes/mntp.py on `tiny` with a LoRA of rank 1, an epoch of articles.txt. The
encoder's tokenizer.json, equal to the embedded one, is left out.
"""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from forked import run_recipe

from llm2vec_pl.decoder.source import TINY
from llm2vec_pl.encoder.encoder import Encoder

EARLIER = Path(__file__).parent / "earlier"
EMBEDDING = [-0.172975, -0.381658, 0.147493, 0.407476, 0.395427, -1.077825, -0.250648, 0.033779]
"""The first numbers for "The cat sat on the mat.", by that version."""
LOSSES = [6.126778, 8.234047]
"""Of the two steps with which that version went on."""


@pytest.fixture
def run(tmp_path):
    shutil.copy(EARLIER / "articles.txt", tmp_path)
    folder = shutil.copytree(EARLIER / "version_0", tmp_path / "runs" / "mntp" / "version_0")
    shutil.copy(TINY / "tokenizer.json", folder / "encoder")
    return folder


def test_an_encoder_of_an_earlier_version_gives_the_same_embedding(run):
    encoder = Encoder.from_pretrained(run / "encoder", dtype="float32")
    embedding = encoder.encode("The cat sat on the mat.")
    torch.testing.assert_close(embedding[:8], torch.tensor(EMBEDDING), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_run_of_an_earlier_version_goes_on_with_the_same_losses(run):
    root = run.parents[2]
    flags = ["--config", str(run / "config.yaml"), "--resume", "last", "--trainer.max_steps", "6"]
    done = run_recipe("mntp.py", *flags, "--trainer.accelerator", "cpu", cwd=root)
    assert done.returncode == 0, done.printed
    with (run / "metrics.csv").open(newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert losses == pytest.approx(LOSSES, rel=1e-3)
