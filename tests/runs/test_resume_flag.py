import os
from pathlib import Path

import pytest

from llm2vec_pl.errors import UserError
from llm2vec_pl.runs.resume import MetricsFile, find_checkpoint, run_loggers


def checkpoint(root: Path, run: int, age: float, name: str = "last.ckpt") -> Path:
    path = root / f"version_{run}" / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def test_last_is_the_checkpoint_that_was_written_last(tmp_path):
    newest = checkpoint(tmp_path, 2, age=1)
    checkpoint(tmp_path, 11, age=2)
    checkpoint(tmp_path, 3, age=0, name="best.ckpt")
    assert find_checkpoint("last", tmp_path) == newest


def test_last_begins_a_run_where_there_is_none(tmp_path):
    assert find_checkpoint("last", tmp_path) is None
    assert find_checkpoint(None, tmp_path) is None


def test_shards_that_were_being_replaced_are_found(tmp_path):
    aside = checkpoint(tmp_path, 0, age=0, name=".last.ckpt.before")
    assert find_checkpoint("last", tmp_path) == aside


def test_a_run_stands_for_its_last_checkpoint(tmp_path):
    last = checkpoint(tmp_path, 0, age=0)
    assert find_checkpoint(str(tmp_path / "version_0"), tmp_path) == last
    assert find_checkpoint(str(last), tmp_path) == last


def test_a_checkpoint_that_is_not_there_is_an_error_that_lists_those_that_are(tmp_path):
    last = checkpoint(tmp_path, 0, age=0)
    with pytest.raises(UserError, match=f"no checkpoint nowhere.ckpt.*\n  {last}"):
        find_checkpoint("nowhere.ckpt", tmp_path)


def log(root: Path, steps: range, first_step: int = 0) -> list[str]:
    logger = MetricsFile(str(root), version=0, first_step=first_step)
    for step in steps:
        logger.log_metrics(
            {"train/loss": 10.0 * step, **({"extra": 1.0} if step > 6 else {})}, step
        )
        logger.save()
    return (root / "version_0" / "metrics.csv").read_text().splitlines()


def test_a_resumed_run_appends_to_its_metrics_from_the_checkpoint_on(tmp_path):
    log(tmp_path, range(5))
    lines = log(tmp_path, range(3, 6), first_step=3)  # killed after step 4, saved after step 2
    assert lines == ["step,train/loss", "0,0.0", "1,10.0", "2,20.0", "3,30.0", "4,40.0", "5,50.0"]


def test_a_metric_that_comes_later_keeps_the_rows_before_it(tmp_path):
    log(tmp_path, range(5))
    lines = log(tmp_path, range(5, 8), first_step=5)
    assert lines[0] == "extra,step,train/loss"
    assert lines[1] == ",0,0.0"
    assert lines[-1] == "1.0,7,70.0"


def test_what_was_logged_before_the_checkpoint_is_not_written_twice(tmp_path):
    log(tmp_path, range(5))
    assert len(log(tmp_path, range(0, 6), first_step=5)) == 7


def test_a_checkpoint_of_another_folder_begins_a_new_run(tmp_path):
    elsewhere = checkpoint(tmp_path / "elsewhere", 7, age=0)
    checkpoint(tmp_path / "runs", 0, age=0)
    assert run_loggers(str(tmp_path / "runs"), elsewhere)[0].version == 1
    assert run_loggers(str(tmp_path / "elsewhere"), elsewhere)[0].version == 7
