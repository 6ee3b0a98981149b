"""`recipes/embed.py` as a user runs it: killed, stopped, on several ranks, with mistakes."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from forked import run_recipe
from killed_runs import Run

COUNT, PER_FILE = 600, 20
TEXTS = [f"Article {i} is about {'rivers ' * (i % 5)}and {i} lakes." for i in range(COUNT)]


@pytest.fixture(scope="module")
def articles(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "articles.jsonl"
    path.write_text("\n".join(json.dumps({"id": f"a{i}", "text": t}) for i, t in enumerate(TEXTS)))
    return str(path)


@pytest.fixture(scope="module")
def flags(llama_folder, articles) -> list[str]:
    return f"""--encoder.model_name {llama_folder} --encoder.dtype float32 --corpus {articles}
        --accelerator cpu --rows_per_file {PER_FILE} --batch_size 4 --out out""".split()


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory) -> dict[str, list]:
    """What a run that nothing disturbs writes."""
    place = tmp_path_factory.mktemp("whole")
    done = run_recipe("embed.py", *flags, cwd=place)
    assert done.returncode == 0, done.printed
    assert f"{COUNT} rows in {COUNT // PER_FILE} files in out" in done.printed
    assert f"of about {COUNT - 1} rows" in done.printed  # the last line has no end
    return pq.read_table(place / "out").to_pydict()


def parts(place: Path) -> int:
    return len(list((place / "out").glob("part-*.parquet")))


def wait_for_parts(place: Path, count: int) -> None:
    end = time.monotonic() + 120
    while parts(place) < count:
        assert time.monotonic() < end, (place / "output.txt").read_text()
        time.sleep(0.002)


def assert_same(found: dict[str, list], expected: dict[str, list]) -> None:
    assert found["row"] == expected["row"] == list(range(COUNT))
    assert found["id"] == expected["id"]
    np.testing.assert_allclose(found["embedding"], expected["embedding"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_three_kills_lose_and_double_no_row(ranks, flags, whole, tmp_path):
    moments = random.Random(ranks)
    several = ["--devices", str(ranks)]
    for count in (3, 9, 15):
        run = Run("embed.py", [*flags, *several], tmp_path, ranks)
        wait_for_parts(tmp_path, count)
        time.sleep(moments.uniform(0, 0.01))
        run.kill()
        assert parts(tmp_path) < COUNT // PER_FILE
    # With another number of devices than before.
    assert Run("embed.py", [*flags, "--devices", "1"], tmp_path).wait() == [0]
    printed = (tmp_path / "output.txt").read_text()
    assert "files with" in printed
    assert "are there already" in printed
    assert_same(pq.read_table(tmp_path / "out").to_pydict(), whole)


@pytest.mark.slow
def test_two_processes_that_lightning_starts_write_what_one_does(flags, whole, tmp_path):
    done = run_recipe("embed.py", *flags, "--devices", "2", cwd=tmp_path)
    assert done.returncode == 0, done.printed
    assert_same(pq.read_table(tmp_path / "out").to_pydict(), whole)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_ctrl_c_stops_with_whole_files_and_says_how_to_go_on(ranks, flags, whole, tmp_path):
    given = [*flags, "--devices", str(ranks)]
    run = Run("embed.py", given, tmp_path, ranks)
    wait_for_parts(tmp_path, 2)
    run.send(signal.SIGINT)
    assert run.wait() == [130, 0][:ranks]
    printed = (tmp_path / "output.txt").read_text()
    assert "Stopped by SIGINT. The files in out are whole; give the same command again" in printed
    assert "Traceback" not in printed
    assert 2 <= parts(tmp_path) < COUNT // PER_FILE
    assert Run("embed.py", given, tmp_path, ranks).wait() == [0] * ranks
    assert_same(pq.read_table(tmp_path / "out").to_pydict(), whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("--columns body", "no column 'body'; its columns are: id, text. Set --columns."),
        ("--corpus none.jsonl", "--corpus none.jsonl does not exist"),
        ("--colums text", "no option --colums. Did you mean --columns?"),
        ("--corpus bad.jsonl", "bad.jsonl line 2: expected a text and an id, but got broken JSON"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(more, expected, flags, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n{"text\n')
    done = run_recipe("embed.py", *flags, *more.split(), cwd=tmp_path)
    assert done.returncode == 2, done.printed
    errors = [line for line in done.printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert expected in errors[0]
    assert "Traceback" not in done.printed
