"""What a GGUF file says about itself, read and checked without touching its weights.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from llm2vec_pl.errors import UserError

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # version 1 is from the format's first weeks
ALIGNMENT = 32  # bytes, unless the file says otherwise

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_NUMBERS[12] = "d"
_TEXT, _ARRAY = 8, 9


class Header(NamedTuple):
    """The beginning of a GGUF file.

    Args:
        metadata: its entries by name; of a list, only the length.
        tensors: the names of its tensors.
    """

    metadata: dict[str, Any]
    tensors: tuple[str, ...]

    @property
    def architecture(self) -> str:
        """What llama.cpp calls the decoder's architecture, such as "llama" or "gemma3"."""
        return str(self.metadata.get("general.architecture"))


def require_magic(file: Path, name: str) -> None:
    """Checks that a file begins as a GGUF does.

    Args:
        file: to be looked at.
        name: what the user calls it.

    Raises:
        UserError: if it begins otherwise, or cannot be read.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(len(MAGIC))
    except OSError as error:
        raise UserError(f"`model_name`: {name} cannot be read: {error.strerror}.") from error
    if start != MAGIC:
        raise UserError(
            f"`model_name`: {name} is not a GGUF file: it begins with {start!r} instead of "
            f"{MAGIC!r}. Name a GGUF, or the folder of a model in safetensors."
        )


def read_header(file: Path, name: str) -> Header:
    """Reads the beginning of a GGUF file and checks that the rest of it is there.

    Args:
        file: a whole GGUF.
        name: what the user calls it.

    Raises:
        UserError: if the file is cut off or damaged, or in a version or number format that is not
            known.
    """
    require_magic(file, name)
    size = file.stat().st_size
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as blob:
        reader = _Reader(blob)
        try:
            (version,) = reader.numbers("I")
            _require_version(version, name)
            header, end = _parse(reader, name)
        except (struct.error, UnicodeDecodeError, KeyError, OverflowError) as error:
            raise _cut_off(name, f"its list of tensors ends after {size:,} bytes") from error
    if end > size:
        raise _cut_off(name, f"it has {size:,} bytes instead of {end:,}")
    return header


class _Reader:
    """Reads one value after the other."""

    def __init__(self, blob: mmap.mmap) -> None:
        self.blob = blob
        self.place = len(MAGIC)

    def numbers(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self.blob, self.place)
        self.place += struct.calcsize(f"<{layout}")
        return values

    def text(self) -> str:
        (length,) = self.numbers("Q")
        return self._next(length).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind != _ARRAY:
            return self.numbers(_NUMBERS[kind])[0]
        inner, count = self.numbers("IQ")
        if inner in _NUMBERS:
            self._skip(count * struct.calcsize(f"<{_NUMBERS[inner]}"))
        for _ in range(count if inner not in _NUMBERS else 0):
            self._skip(self.numbers("Q")[0]) if inner == _TEXT else self.value(inner)
        return count

    def _next(self, length: int) -> bytes:
        start = self.place
        self._skip(length)
        return bytes(self.blob[start : self.place])

    def _skip(self, length: int) -> None:
        if self.place + length > len(self.blob):
            raise struct.error("the file ends here")
        self.place += length


def _parse(reader: _Reader, name: str) -> tuple[Header, int]:
    """The header, and how many bytes the file must have."""
    tensors, entries = reader.numbers("QQ")
    metadata = {}
    for _ in range(entries):
        key = reader.text()
        metadata[key] = reader.value(reader.numbers("I")[0])
    names, ends = [], [0]
    for _ in range(tensors):
        names.append(reader.text())
        shape = reader.numbers(f"{reader.numbers('I')[0]}Q")
        kind, offset = reader.numbers("IQ")
        ends.append(offset + _bytes(kind, prod(shape), name))
    alignment = metadata.get("general.alignment", ALIGNMENT)
    start = -(-reader.place // alignment) * alignment
    return Header(metadata, tuple(names)), start + max(ends)


def _bytes(kind: int, numbers: int, name: str) -> int:
    """How many bytes a tensor has in one of ggml's number formats."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        per_block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError) as error:
        raise UserError(
            f"`model_name`: {name} holds numbers in ggml's format {kind}, which the installed gguf "
            "does not know. Update it: pip install --upgrade gguf."
        ) from error
    return numbers // per_block * size


def _require_version(version: int, name: str) -> None:
    if version in VERSIONS:
        return
    if version > 0xFFFF:
        raise UserError(
            f"`model_name`: {name} is a big-endian GGUF, which transformers does not "
            "read. Get one for little-endian machines."
        )
    raise UserError(
        f"`model_name`: {name} is a GGUF of version {version}, but 2 and 3 can be read. Get a "
        "newer conversion of the model."
    )


def _cut_off(name: str, what: str) -> UserError:
    return UserError(
        f"`model_name`: {name} is not a whole GGUF: {what}. The download or copy was cut off, or "
        "the file is damaged: get it again."
    )
