"""`recipes/probe.py` as a user runs it, in a process of its own."""

import json
from pathlib import Path

import pytest
from forked import Done, run_recipe

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder

ROWS = [
    {"tokens": ["The", word, verb, "."], "upos": ["DET", "NOUN", "VERB", "PUNCT"]}
    for word in ("dog", "lake", "house", "river", "letter")
    for verb in ("sees", "runs", "falls")
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data, and one that a pipeline has left after MNTP."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "lakes").mkdir()
    for split in ("train", "valid", "test"):
        (folder / "lakes" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    stage = folder / "runs" / "pipeline" / "mntp"
    save_encoder(Encoder("tiny", lora_rank=2).load(), stage / "version_0" / "encoder")
    (stage / "done.json").write_text(json.dumps({"encoder": "version_0/encoder"}))
    return folder


def run(flags: str, cwd: Path, expect: int = 0) -> Done:
    done = run_recipe("probe.py", *flags.split(), cwd=cwd)
    assert done.returncode == expect, done.printed
    assert "Traceback" not in done.printed
    return done


@pytest.mark.slow
def test_all_stages_of_a_pipeline_are_compared_and_a_second_run_measures_nothing(place):
    command = "--pipeline runs/pipeline --data lakes:pos --layer 0 last --seeds 1 --max_steps 5"
    first = run(command, place).stdout
    assert first.count("seed 0: accuracy") == 2 * 3
    rows = (place / "runs" / "probe" / "table.md").read_text(encoding="utf-8").splitlines()
    names = [row.split(" | ")[0] for row in rows if row.startswith("| ")]
    assert names[2:] == [f"| {n}" for n in ("causal", "bidirectional", "+ MNTP") for _ in "01"]
    assert (place / "runs" / "probe" / "layers.png").is_file()
    again = run(command, place).stdout
    assert again == first[first.index(again[:40]) :]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--data lakes:pos", "Name what to probe: --decoder, --pipeline or --encoders."),
        ("--decoder tiny --data lakes", "--data expects PATH:TASK"),
        ("--encoders tiny --data lakes:pos", "--encoders expects NAME=MODEL"),
        ("--pipeline lakes --data lakes:pos", "lakes has no finished stage of a pipeline"),
        ("--decoder tiny --data lakes:pos --layer 9", "--layer expects last, all, or numbers"),
        ("--decoder tiny --data lakes:pos --seeds 0", "--seeds expects at least 1"),
        ("--decoder tiny --data ./seas:pos", "./seas"),
    ],
)
def test_a_mistake_is_an_error_that_says_what_to_do(place, flags, expected):
    printed = run(flags, place, expect=2).stderr
    assert expected in printed
    assert len(printed.splitlines()) < 4
