"""`recipes/search.py` as a user runs it, in a process of its own."""

import io
import json
import runpy
import signal
import time
from pathlib import Path

import pytest
from forked import ROOT, run_recipe
from killed_runs import Run

PLACES = ["the harbour of Oslo", "a bakery in Rome that sells bread", "the old library of Turin"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    (folder / "notes").mkdir()
    for name, text in zip("abc", PLACES, strict=True):
        (folder / "notes" / f"{name}.md").write_text(f"# {name.upper()}\n\n{text}\n")
    return folder


def run(*flags: str, cwd: Path, expect: int = 0):
    done = run_recipe("search.py", *flags, cwd=cwd)
    assert done.returncode == expect, done.printed
    assert "Traceback" not in done.printed
    return done


@pytest.mark.slow
def test_the_first_search_makes_an_index_and_the_next_one_uses_it(place):
    flags = ["--corpus", "notes", "--top", "2", "bread", "from", "a bakery"]
    first = run(*flags, cwd=place)
    assert first.stdout.startswith(" 1  ")
    assert "notes/b.md:1" in first.stdout
    assert "3 passages: 3 to embed" in first.stderr
    assert "2 of 3 passages, found in 0." in first.stderr
    again = run(*flags, "--json", cwd=place)
    assert "to embed" not in again.stderr
    found = json.loads(again.stdout)
    assert found["query"] == "bread from a bakery"
    assert [hit["rank"] for hit in found["hits"]] == [1, 2]
    assert found["hits"][0]["place"] == "notes/b.md"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--corpus none.txt bread", "error: --corpus none.txt does not exist"),
        ("--corpus notes --top 0 bread", "error: --top is at least 1, but got 0."),
        ("--corpus notes --passage_tokens 3 bread", "error: --passage_tokens is at least 16"),
        ("--corpus notes --encoder runs/none bread", "error: --encoder: there is no finished run"),
        ("--corpus notes --backend milvus bread", "search.py: error: argument --backend"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(flags, expected, place):
    done = run(*flags.split(), cwd=place, expect=2)
    assert [line for line in done.stderr.splitlines() if line.startswith(expected)], done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_ctrl_c_keeps_what_has_been_embedded(tmp_path):
    lines = (" ".join(f"word{i * j}" for j in range(40)) for i in range(4000))
    (tmp_path / "long.txt").write_text("\n\n".join(lines))
    started = Run("search.py", ["--corpus", "long.txt", "x"], tmp_path)
    end = time.monotonic() + 120
    while not sum(file.stat().st_size for file in tmp_path.glob("cache/search-*/log.keys")):
        assert time.monotonic() < end
        time.sleep(0.05)
    started.send(signal.SIGINT)
    codes = started.wait()
    printed = (tmp_path / "output.txt").read_text()
    assert codes == [130], printed
    assert "Stopped. What has been embedded is kept; the same command continues." in printed
    assert "Traceback" not in printed
    (folder,) = tmp_path.glob("cache/search-*")
    assert {path.name for path in folder.iterdir()} == {"log.keys", "log.vectors"}
    assert (folder / "log.keys").stat().st_size >= 16 * 64


def test_without_a_query_each_line_is_one(monkeypatch):
    recipe = runpy.run_path(str(ROOT / "recipes" / "search.py"))
    monkeypatch.setattr("sys.stdin", io.StringIO("first question\n\n second \n"))
    assert list(recipe["asked"]()) == ["first question", "second"]
