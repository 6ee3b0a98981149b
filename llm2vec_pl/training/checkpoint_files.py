"""Checkpoints on disk: each file appears whole or not at all, and read errors give the reason."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch.plugins.io import TorchCheckpointIO
from typing_extensions import override

from llm2vec_pl.distributed import read_shards
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import put_in_place


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint next to the one that it replaces, which stays until the new one is whole.

    Lightning's own writer assembles a file in memory first; this one streams it to the disk. Paths
    that are not local are left to Lightning. Only tensors and plain containers are read
    (`weights_only`).
    """

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        if not _is_local_file_protocol(str(path)):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.unfinished")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            put_in_place(unfinished, path)
        except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
            unfinished.unlink(missing_ok=True)
            raise UserError(
                f"The checkpoint could not be written to {path}: {_reason(error)}. Earlier "
                "checkpoints are whole: free some space and continue with --resume last."
            ) from error

    @override
    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        try:
            if Path(path).is_dir():
                return read_shards(Path(path))
            return dict(super().load_checkpoint(path, map_location, weights_only is not False))
        except FileNotFoundError as error:
            raise UserError(f"--resume: there is no checkpoint {path}.") from error
        except pickle.UnpicklingError as error:
            raise UserError(
                f"The checkpoint {path} holds more than tensors and plain values, or is "
                f"incomplete: {str(error).splitlines()[0]} Name another one with --resume PATH."
            ) from error
        except (RuntimeError, EOFError, OSError) as error:
            raise UserError(
                f"The checkpoint {path} cannot be read ({_reason(error)}). Was it copied only in "
                "part? Name another one with --resume PATH, such as best.ckpt in the same folder."
            ) from error


def _reason(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else repr(error)
