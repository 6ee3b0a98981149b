import os
from pathlib import Path

import pytest

from llm2vec_pl.errors import UserError
from llm2vec_pl.training.resume import find_checkpoint, run_loggers


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


def test_a_checkpoint_of_another_folder_begins_a_new_run(tmp_path):
    elsewhere = checkpoint(tmp_path / "elsewhere", 7, age=0)
    checkpoint(tmp_path / "runs", 0, age=0)
    assert run_loggers(str(tmp_path / "runs"), elsewhere)[0].version == 1
    assert run_loggers(str(tmp_path / "elsewhere"), elsewhere)[0].version == 7
