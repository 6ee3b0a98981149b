"""`recipes/evaluate.py` as a user runs it, in a process of its own."""

import json
from pathlib import Path

import pytest
from forked import run_recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    (folder / "data" / "sts").mkdir(parents=True)
    words = ["sea", "ship", "wave", "coast", "cloud", "star"]
    rows = [
        {"sentence1": f"the {a}", "sentence2": f"a {b}", "score": 5 - abs(i - j)}
        for i, a in enumerate(words)
        for j, b in enumerate(words)
    ]
    (folder / "data" / "sts" / "words.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def run(flags: str, cwd: Path, expect: int = 0) -> str:
    environment = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cwd / "hub")}
    done = run_recipe("evaluate.py", *flags.split(), cwd=cwd, environment=environment)
    assert done.returncode == expect, done.printed
    assert "Traceback" not in done.printed
    return done.printed


@pytest.mark.slow
def test_results_are_kept_and_a_task_that_needs_a_network_is_named(place):
    flags = "--encoder.bidirectional false --data_dir data --instructions none"
    assert "words (STS): " in run(flags, place)
    table = (place / "runs" / "mteb" / "table.md").read_text().splitlines()
    assert table[0] == "| task | tiny bidirectional=False instructions=none |"
    printed = run(f"{flags} --tasks words,STSBenchmark", place, expect=2)
    assert "evaluated before" in printed
    (error,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert "STSBenchmark: its data, mteb/stsbenchmark-sts, cannot be loaded" in error
    assert "--data_dir" in error
