"""Contestants of a few lines, so that what is tested is the contest itself."""

import sys
from pathlib import Path

import pytest

from benchmarks import contest as contests
from benchmarks.contest import Result, Worker, contest, ratios
from llm2vec_pl.errors import UserError

SLEEPS = """
import time
def build(job):
    print("what a library says must not be taken for an answer")
    def run():
        time.sleep(job["sleep"])
        bytearray(job["bytes"])[:] = b"1" * job["bytes"]
    return run
"""
FAILS = """
def build(job):
    raise ImportError("no module named wings")
"""


def worker(tmp_path: Path, content: str, name: str = "one", **job) -> Worker:
    file = tmp_path / f"{name}.py"
    file.write_text(content)
    return Worker(name, sys.executable, file, {"sleep": 0.01, "bytes": 1, **job}, tmp_path)


def test_a_worker_says_how_long_it_took_and_what_memory(tmp_path):
    slow = worker(tmp_path, SLEEPS, sleep=0.1, bytes=200 * 2**20)
    try:
        answers = [slow.measure() for _ in range(2)]
    finally:
        slow.close()
    for answer in answers:
        assert 0.1 <= answer["seconds"] < 10
        assert answer["peak"] - slow.loaded > 199


def test_a_worker_that_took_much_memory_gives_it_back_and_warms_up_again(tmp_path):
    log = tmp_path / "log"
    pieces = "[bytearray(2**17) for _ in range(20_000)]"  # small ones, which glibc keeps
    content = f"def build(job):\n    def run():\n        {pieces}\n        open({str(log)!r}, 'a').write('x')\n    return run"
    large = worker(tmp_path, content)
    try:
        peaks = [large.measure()["peak"] for _ in range(2)]
    finally:
        large.close()
    assert min(peaks) > 2400
    assert len(log.read_text()) in (3, 4)  # twice, and once or twice to warm up


def test_a_contestant_that_cannot_run_says_why_and_what_it_needs(tmp_path):
    with pytest.raises(UserError, match=r"no module named wings.*llm2vec==0.2.3"):
        worker(tmp_path, FAILS, name=contests.REFERENCE)


def test_a_contestant_that_was_killed_is_told_to_need_less_memory(tmp_path):
    content = "import os, signal\ndef build(job):\n    os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(UserError, match=r"memory runs out. Set a smaller --batch_size"):
        worker(tmp_path, content)


def test_a_contestant_that_is_killed_while_another_runs_says_so_at_its_next_turn(tmp_path):
    waiting = worker(tmp_path, "def build(job):\n    return lambda: None")
    waiting._process.kill()
    waiting._process.wait()
    with pytest.raises(UserError, match=r"it was killed, as happens when memory runs out"):
        waiting.measure()
    waiting.close()


def test_an_interpreter_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(UserError, match="--against expects an interpreter.*nowhere/python"):
        Worker("llm2vec", "nowhere/python", tmp_path / "any.py", {}, tmp_path)


def test_contestants_take_turns(tmp_path, monkeypatch):
    folder = tmp_path / "contestants"
    folder.mkdir()
    for file, name in [("ours.py", "A"), ("reference.py", "B")]:
        log = f"open({str(tmp_path / 'log')!r}, 'a').write({name!r})"
        (folder / file).write_text(f"def build(job):\n    return lambda: {log}\n")
    (tmp_path / "worker.py").write_text((contests.HERE / "worker.py").read_text())
    monkeypatch.setattr(contests, "HERE", tmp_path)
    ours, theirs = contest({"work": "mntp"}, against=sys.executable, rounds=3)
    assert (tmp_path / "log").read_text() == "AABB" + "AB" * 2  # once each to warm up
    assert [ours.name, theirs.name] == ["llm2vec_pl", "llm2vec"]
    assert len(ours.seconds) == len(theirs.seconds) == 3


def test_a_ratio_is_of_the_same_round():
    ours = Result("ours", [1.0, 2.0, 4.0], peak=1, loaded=1)
    theirs = Result("theirs", [2.0, 6.0, 8.0], peak=1, loaded=1)
    assert ratios([ours, theirs]) == (2.0, 2.0, 3.0)
    assert ratios([ours]) is None
