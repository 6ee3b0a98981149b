"""`recipes/merge.py` as a user runs it, in a process of its own."""

from pathlib import Path

import pytest
import torch
from forked import run_recipe

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.encoder.soup import average_encoders


def trained(base: str, folder: Path, seed: int) -> Path:
    encoder = Encoder(base, lora_rank=4).load()
    torch.manual_seed(seed)
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return save_encoder(encoder, folder)


@pytest.fixture(scope="module")
def place(llama_folder, tmp_path_factory) -> Path:
    """A folder with two runs in the layout of the recipes."""
    folder = tmp_path_factory.mktemp("place")
    for i, name in enumerate("ab"):
        trained(llama_folder, folder / "runs" / name / "version_0" / "encoder", i)
    return folder


def run(flags: str, cwd: Path, expect: int = 0) -> str:
    done = run_recipe("merge.py", *flags.split(), cwd=cwd)
    assert done.returncode == expect, done.printed
    assert "Traceback" not in done.printed
    return done.printed


@pytest.mark.slow
def test_two_runs_become_an_encoder_and_what_was_merged_is_printed(place):
    printed = run("runs/a runs/b --weights 3 1 --rank 4 --out runs/soup", cwd=place)
    assert "0.75 of " in printed
    assert "rank 4, reduced to this rank, which leaves out " in printed
    assert "Wrote runs/soup: open it with Encoder.from_pretrained('runs/soup')." in printed
    folders = [place / "runs" / name for name in "ab"]
    expected = average_encoders(folders, place / "expected", [3, 1], rank=4)
    found, same = (Encoder.from_pretrained(f) for f in (place / "runs" / "soup", expected))
    torch.testing.assert_close(found.encode("a text"), same.encode("a text"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("runs/a runs/b --weights 1 --out o", "error: --weights has 1 numbers, but there are 2"),
        ("runs/a runs/b --weights one two --out o", "error: --weights"),
        ("runs/a runs/c --out o", "error: runs/c cannot be averaged: there is no finished run"),
        ("runs/a runs/b --rank 0 --out o", "error: --rank is at least 1, but got 0."),
        ("runs/a runs/b --slrp --out o", "error: There is no option --slrp. Did you mean --slerp?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(flags, expected, place):
    printed = run(flags, cwd=place, expect=2)
    (error,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert error.startswith(expected)
    assert not (place / "o").exists()
