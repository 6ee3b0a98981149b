"""Checkpoints on disk: a file appears whole or not at all, and what cannot be read says why."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch.plugins.io import TorchCheckpointIO
from typing_extensions import override

from llm2vec_pl.distributed import put_in_place, read_shards
from llm2vec_pl.errors import UserError


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint beside the one that it replaces, which stays until the new one is whole.

    Lightning's own assembles a file in memory first; this one streams it to the disk. Paths that
    are not local are left to Lightning. Only tensors and plain containers are read
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
                f"The checkpoint could not be written to {path}: {_reason(error)}. Checkpoints "
                "written before are whole: make room and go on with --resume last."
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
                f"The checkpoint {path} holds more than tensors and plain values, or was cut off: "
                f"{str(error).splitlines()[0]}"
            ) from error
        except (RuntimeError, EOFError, OSError) as error:
            raise UserError(
                f"The checkpoint {path} cannot be read ({_reason(error)}). Was its copying cut "
                "off? Name another one, as best.ckpt beside it, with --resume PATH."
            ) from error


def _reason(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else repr(error)
