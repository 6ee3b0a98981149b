"""Fingerprints of weights: a few hexadecimal digits that depend on their content alone.

An adapter is a difference from the weights that it was trained on. On others it is wrong, even if
it fits. Saved folders therefore record those weights by their fingerprint, which stays the same
when a folder is copied, moved or split into other files.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from llm2vec_pl.errors import UserError

WHOLE = 2**20
"""Bytes up to which a tensor is read whole; in a larger one, only evenly spaced blocks are read."""

BLOCKS = 16
BLOCK = 4096

NOT_CONTENT = ("base_model_name_or_path", "revision", "inference_mode", "auto_mapping")
"""Entries of an adapter's configuration that do not change what it computes."""


class Origin(NamedTuple):
    """The fingerprints of what an encoder was loaded from.

    Args:
        base: the fingerprint of the full weights.
        adapters: the fingerprints of the adapters on top, in the order of merging.
    """

    base: str
    adapters: tuple[str, ...] = ()

    def __str__(self) -> str:
        return digest([self.base, *self.adapters]) if self.adapters else self.base


def weights_fingerprint(files: Iterable[str | Path]) -> str:
    """The fingerprint of the tensors in safetensors files, however they are spread over the files.

    It covers the name, type, shape and bytes of each tensor: all bytes of a small tensor, blocks
    from beginning to end of a large one. This takes a second for a model of 7 billion weights.

    Raises:
        UserError: if a file cannot be read.
    """
    parts: dict[str, str] = {}
    for path in files:
        try:
            with Path(path).open("rb") as file:
                parts |= _tensors(file)
        except (OSError, ValueError, KeyError, struct.error) as error:
            raise UserError(
                f"{path} is not a readable safetensors file ({error}). It may be incomplete: copy "
                "or download it again."
            ) from error
    return digest(sorted(parts.items()))


def adapter_fingerprint(folder: str | Path) -> str:
    """The fingerprint of an adapter's weights and configuration."""
    from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME

    config = json.loads((Path(folder) / CONFIG_NAME).read_text())
    content = {k: v for k, v in config.items() if k not in NOT_CONTENT}
    return digest([content, weights_fingerprint([Path(folder) / SAFETENSORS_WEIGHTS_NAME])])


def digest(content: object) -> str:
    """16 hexadecimal digits for content that JSON can hold."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def _tensors(file: BinaryIO) -> dict[str, str]:
    """A digest of each tensor of a safetensors file, by name."""
    (length,) = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    digests = {}
    for name, tensor in header.items():
        start, end = tensor["data_offsets"]
        content = hashlib.blake2b(digest_size=8)
        for offset, size in _places(end - start):
            file.seek(8 + length + start + offset)
            content.update(file.read(size))
        digests[name] = f"{tensor['dtype']} {tensor['shape']} {content.hexdigest()}"
    return digests


def _places(size: int) -> Sequence[tuple[int, int]]:
    """Which parts of a tensor of `size` bytes to read, as (offset, bytes)."""
    if size <= WHOLE:
        return [(0, size)]
    last = size - BLOCK
    return [(last * i // (BLOCKS - 1), BLOCK) for i in range(BLOCKS)]
