"""Folders like those that llm2vec publishes, with the embeddings that llm2vec 0.2.3 gives."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from published_folders import CASES, RECORD, as_published, rows
from torch import Tensor

from benchmarks.old_folder import copy_as_of_old, write_as_of_old
from llm2vec_pl.decoder import SETTINGS, TINY
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder

RECORDED = json.loads(RECORD.read_text())
REFERENCE = "LLM2VEC_PYTHON"  # names an interpreter that has llm2vec 0.2.3
SCRIPT = Path(__file__).parents[1] / "record_published.py"
SMOLLM2 = Path.home() / ".cache" / "llm2vec-models" / "smollm2-135m"
REFERENCE_SETTINGS = {
    "pooling_mode": "mean",
    "max_length": 512,
    "doc_max_length": 400,
    "skip_instruction": True,
}

needs_reference = pytest.mark.skipif(
    REFERENCE not in os.environ, reason=f"{REFERENCE} names no interpreter"
)


@pytest.fixture(scope="module")
def old_tiny(tmp_path_factory) -> Path:
    """The embedded decoder as transformers 4.44 reads it."""
    folder = tmp_path_factory.mktemp("old") / "tiny"
    copy_as_of_old(TINY, folder)
    return folder


def largest_difference(encoder: Encoder, case: str, recorded: dict[str, Any]) -> float:
    """The largest difference of any number, for an embedding of length 1."""
    texts = [
        (*row, embedding)
        for row, embedding in zip(rows(CASES[case]), recorded["embeddings"][case], strict=True)
        if embedding
    ]
    instructions, texts, expected = zip(*texts, strict=True)
    found = encoder.encode(texts, instructions)
    lengths = found.norm(dim=1, keepdim=True)
    difference = (found[:, :: recorded["every"]] - torch.tensor(expected)) / lengths
    return float(difference.abs().max())


def difference_of(case: str, recorded: dict[str, Any], base: Path, root: Path) -> float:
    mntp, further = as_published(root / case, CASES[case], recorded["folders"], str(base), base)
    adapters = [str(folder) for folder in further]
    encoder = Encoder.from_pretrained(mntp, adapters=adapters, dtype="float32")
    return largest_difference(encoder, case, recorded)


@pytest.mark.parametrize("case", CASES)
def test_a_published_folder_gives_the_embeddings_of_the_reference(case, tmp_path, old_tiny):
    assert difference_of(case, RECORDED, old_tiny, tmp_path) <= 1e-5


def test_from_the_hub_the_template_is_chosen_by_the_name_of_the_base(hub, tmp_path, old_tiny):
    name = "mistralai/Mistral-7B-Instruct-v0.2"
    hub.publish(name, TINY)
    folders = as_published(tmp_path, CASES["mistral"], RECORDED["folders"], name, old_tiny)
    config = folders[0] / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_name_or_path": "of a hub"}))
    hub.publish("org/model-mntp", folders[0])
    hub.publish("org/model-mntp-supervised", folders[1][0])
    encoder = Encoder.from_pretrained(
        "org/model-mntp", adapters=["org/model-mntp-supervised"], dtype="float32"
    )
    assert encoder.tokenize.template == "[INST] {text} [/INST]"
    assert largest_difference(encoder, "mistral", RECORDED) <= 1e-5


# With the reference itself -------------------------------------------------------------------


def ask_reference(*words: object) -> None:
    done = subprocess.run(
        [os.environ[REFERENCE], str(SCRIPT), *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@needs_reference
@pytest.mark.parametrize("case", ["mistral", "end token in a template"])
def test_a_real_model_gives_the_embeddings_of_the_reference(case, tmp_path):
    if not SMOLLM2.is_dir():
        pytest.skip(f"{SMOLLM2} is not there")
    base = tmp_path / "base"
    copy_as_of_old(SMOLLM2, base)
    ask_reference("record", base, tmp_path / "recorded.json", case)
    recorded = json.loads((tmp_path / "recorded.json").read_text())
    assert difference_of(case, recorded, base, tmp_path) <= 2e-5  # float32 itself is off by 1e-5


@pytest.mark.slow
@needs_reference
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_reference_opens_what_we_save(lora_rank, tmp_path, old_tiny):
    encoder = Encoder(str(old_tiny), lora_rank=lora_rank, reference_quirks=True).load()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name or (lora_rank == 0 and "q_proj" in name):
            torch.nn.init.normal_(parameter, std=0.05)
    folder = save_encoder(encoder, tmp_path / "saved")
    if lora_rank == 0:
        write_as_of_old(folder)
    (folder / SETTINGS).write_text(json.dumps(REFERENCE_SETTINGS))  # it refuses any other entry
    base, *adapter = [folder] if lora_rank == 0 else [old_tiny, folder]
    ask_reference("embed", base, tmp_path / "found.json", *adapter)
    instructions, texts = zip(*rows({}), strict=True)
    ours: Tensor = encoder.encode(texts, instructions)
    theirs = torch.tensor(json.loads((tmp_path / "found.json").read_text()))
    assert ((ours - theirs).abs().amax(dim=1) / ours.norm(dim=1)).max() <= 1e-5
