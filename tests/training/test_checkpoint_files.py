import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llm2vec_pl.errors import UserError
from llm2vec_pl.training.checkpoint_files import CheckpointFiles

STATE = {"state_dict": {"weight": torch.arange(1000.0)}, "global_step": 3}


def test_what_is_saved_is_read(tmp_path):
    CheckpointFiles().save_checkpoint(STATE, tmp_path / "new" / "a.ckpt")
    read = CheckpointFiles().load_checkpoint(tmp_path / "new" / "a.ckpt")
    assert read["global_step"] == 3
    assert torch.equal(read["state_dict"]["weight"], STATE["state_dict"]["weight"])


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write failed")]
)
def test_a_write_that_fails_leaves_the_checkpoint_before_it(tmp_path, monkeypatch, failure):
    path = tmp_path / "last.ckpt"
    CheckpointFiles().save_checkpoint(STATE, path)
    before = path.read_bytes()

    def half(checkpoint, file):
        file.write(b"half of it")
        raise failure

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(UserError, match="could not be written.*--resume last"):
        CheckpointFiles().save_checkpoint(STATE, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_a_disk_that_takes_no_more_bytes_is_an_error_with_the_old_file_whole(tmp_path):
    """Really: the kernel refuses to write beyond a limit."""
    path = tmp_path / "last.ckpt"
    CheckpointFiles().save_checkpoint(STATE, path)
    before = path.read_bytes()
    script = f"""
import resource, signal, torch
from llm2vec_pl.training.checkpoint_files import CheckpointFiles
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY}))
CheckpointFiles().save_checkpoint({{"weight": torch.zeros(1_000_000)}}, {str(path)!r})
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "UserError: The checkpoint could not be written" in result.stderr
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_checkpoint_that_was_cut_off_is_named(tmp_path, share):
    path = tmp_path / "last.ckpt"
    CheckpointFiles().save_checkpoint(STATE, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="last.ckpt"):
        CheckpointFiles().load_checkpoint(path)


def test_a_checkpoint_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        CheckpointFiles().load_checkpoint(tmp_path / "none.ckpt")


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Harmful()}, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match="more than tensors"):
        CheckpointFiles().load_checkpoint(tmp_path / "bad.ckpt")
    assert not (tmp_path / "ran").exists()


def test_a_file_takes_the_place_of_shards(tmp_path):
    (tmp_path / "last.ckpt").mkdir()
    (tmp_path / "last.ckpt" / "meta.pt").touch()
    CheckpointFiles().save_checkpoint(STATE, tmp_path / "last.ckpt")
    assert os.listdir(tmp_path) == ["last.ckpt"]
    assert CheckpointFiles().load_checkpoint(tmp_path / "last.ckpt")["global_step"] == 3
