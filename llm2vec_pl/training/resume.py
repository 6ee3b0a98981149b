"""Continuing a run: which checkpoint, and the logs of the run that it belongs to."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from llm2vec_pl.distributed import is_shards
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import before
from llm2vec_pl.training.checkpoints import LAST
from llm2vec_pl.training.metrics_file import MetricsFile


def find_checkpoint(resume: str | None, root: Path) -> Path | None:
    """The checkpoint to continue from.

    Args:
        resume: `last`, a checkpoint's path, or the folder of a run; None for a new run.
        root: the folder of the recipe's runs, such as `runs/mntp`.

    Returns:
        Its path; None for a new run. `last` also begins a new run if there is no checkpoint yet, so
        that a restarted job can use the same command.

    Raises:
        UserError: if there is no such checkpoint.
    """
    if resume is None:
        return None
    if resume == "last":
        newest = _newest(root)
        if newest is None:
            rank_zero_info(f"--resume last: no checkpoint in {root} yet; a new run begins.")
            return None
        return newest
    path = Path(resume).expanduser()
    for candidate in (path / "checkpoints" / LAST, path / LAST, path):
        if candidate.is_file() or is_shards(candidate):
            return candidate
    there = sorted(root.glob("version_*/checkpoints/*.ckpt"), key=_modified, reverse=True)
    known = "".join(f"\n  {checkpoint}" for checkpoint in there[:5])
    raise UserError(
        f"There is no checkpoint {resume}. Name `last`, a checkpoint or the folder of a run."
        f"{' The newest are' + known if known else ''}"
    )


def run_loggers(root: str, checkpoint: Path | None) -> list[Logger]:
    """CSV and TensorBoard logs: of a new run, or appended to those of a resumed run."""
    version = _version(Path(root), checkpoint)
    tensorboard = TensorBoardLogger(root, name=None, version=version)
    step = _step_of(checkpoint) if checkpoint is not None and version is not None else 0
    return [MetricsFile(root, tensorboard.version, step), tensorboard]


def _newest(root: Path) -> Path | None:
    """The last checkpoint of the run that was saved last."""
    # Only the second exists if a run died while it replaced shards with new ones.
    names = (LAST, before(Path(LAST)).name)
    found = [path for name in names for path in root.glob(f"version_*/checkpoints/{name}")]
    return max(found, key=_modified, default=None)


def _version(root: Path, checkpoint: Path | None) -> int | str | None:
    """The run that a checkpoint belongs to, if it is one of the recipe's."""
    if checkpoint is None or checkpoint.parent.name != "checkpoints":
        return None
    run = checkpoint.parents[1]
    if run.parent.resolve() != root.resolve():
        return None
    number = run.name.removeprefix("version_")
    return int(number) if number.isdigit() else run.name


def _step_of(checkpoint: Path) -> int:
    file = checkpoint / "meta.pt" if checkpoint.is_dir() else checkpoint
    try:
        return int(torch.load(file, mmap=True, weights_only=True)["global_step"])
    except Exception:  # the trainer will report what is wrong
        return 0


def _modified(path: Path) -> float:
    return path.stat().st_mtime
