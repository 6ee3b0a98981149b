"""`recipes/analyse.py` as a user runs it, in a process of its own."""

import json
from pathlib import Path

import pytest
from forked import run_recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    texts = [f"The {word} " * 20 for word in ("sea", "ship", "wave", "coast", "cloud")]
    (folder / "texts.txt").write_text("\n".join(texts))
    (folder / "broken.jsonl").write_text('{"query": "a b", "positive": "a b c"}\n{broken')
    return folder


def run(flags: str, cwd: Path, expect: int = 0) -> str:
    done = run_recipe("analyse.py", *flags.split(), cwd=cwd)
    assert done.returncode == expect, done.printed
    assert "Traceback" not in done.printed
    return done.printed


@pytest.mark.slow
def test_the_embedded_decoder_is_analysed_as_causal_and_bidirectional(place):
    flags = "--analyses future,similarity,attention --texts texts.txt --length 16 --limit 8"
    printed = run(flags, cwd=place)
    assert "8 triples, last layer." in printed
    for name in ("future", "similarity", "attention"):
        written = json.loads((place / "runs" / "analysis" / f"{name}.json").read_text())
        assert "bidirectional" in written["encoders"]
        assert (place / "runs" / "analysis" / f"{name}.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--analyses futur", "error: --analyses expects some of future,similarity"),
        ("--encoders mntp=runs/mntp", "error: --encoder.model_name: there is no finished run in"),
        ("--triples broken.jsonl", "error: broken.jsonl line 2: expected a triple, but got broken"),
        ("--texts texts.txt --analyses attention --length 90", "error: Expected at least two"),
        ("--lenght 5", "error: There is no option --lenght. Did you mean --length?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(flags, expected, place):
    printed = run(flags, cwd=place, expect=2)
    (error,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert error.startswith(expected)
