"""Fingerprints of what is at a path, to tell whether a result was made from it."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llm2vec_pl.decoder.source import LINEAGE, locate
from llm2vec_pl.files import fingerprint

BLOCK, BLOCKS = 2**20, 256  # bytes per block, and blocks read of a larger file


def encoder_contents(name: str) -> str:
    """The fingerprint of everything in an encoder: weights, adapters, tokenizer, settings.

    Their history does not count. What is on the hub counts by its name and revision.

    Args:
        name: any `--encoder.model_name`.

    Raises:
        UserError: if there is no such folder.
    """
    source = locate(name)
    parts = dict.fromkeys((source.base, *source.adapters, source.tokenizer))
    return fingerprint(
        {"parts": [_contents(part) for part in parts], "revision": str(source.revision)}
    )


def file_contents(values: Any, folders: bool = False) -> dict[str, str]:
    """The fingerprints, by path, of the files that flags or a configuration name.

    Args:
        values: texts, such as `path` or `--data.path=path`, or lists and dictionaries of them.
        folders: whether folders count too, by the names and sizes of their files.
    """
    found = {}
    for text in _texts(values):
        path = Path(text).expanduser()
        if os.sep not in text and not path.suffix:  # a word, such as a token of a vocabulary
            continue
        if len(text) < 4096 and path.is_file():
            found[text] = _of_file(path)
        elif folders and len(text) < 4096 and path.is_dir():
            sizes = {str(file.relative_to(path)): file.stat().st_size for file in _files(path)}
            found[text] = fingerprint(sizes)
    return found


def _contents(name: str) -> str:
    """The fingerprint of a folder; for a name on the hub, the name."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    files = (file for file in _files(folder) if file.name != LINEAGE)
    return fingerprint({str(file.relative_to(folder)): _of_file(file) for file in files})


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _texts(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values.rpartition("=")[2]
    elif isinstance(values, dict):
        yield from _texts(list(values.values()))
    elif isinstance(values, Iterable):
        for value in values:
            yield from _texts(value)


def _of_file(path: Path) -> str:
    state = path.stat()
    return _digest(path.resolve(), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _digest(path: Path, size: int, changed: int) -> str:
    """A digest of a file's size and bytes, computed once for each state of the file.

    From a file of gigabytes, only blocks spread over it are read: training changes all of a
    weight, and editing a text changes its size.
    """
    digest = hashlib.blake2b(str(size).encode(), digest_size=8)
    last = max(0, size - BLOCK)
    count = -(-size // BLOCK)
    places = (
        range(0, size, BLOCK)
        if count <= BLOCKS
        else (last * i // BLOCKS for i in range(BLOCKS + 1))
    )
    with path.open("rb") as file:
        for place in places:
            file.seek(place)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()
