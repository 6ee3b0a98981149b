"""A corpus in local files."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from typing_extensions import override

from llm2vec_pl.data.files import (
    RECORD_READERS,
    Row,
    Shard,
    ShardFilter,
    column_names,
    extension,
    left_out,
    read_txt,
)
from llm2vec_pl.errors import UserError
from llm2vec_pl.use.bulk.rows import Corpus

TXT = ".txt"
READABLE = (TXT, *RECORD_READERS)
BLOCK, BLOCKS = 4096, 16  # bytes of a block, and blocks of a file that its fingerprint covers


class LocalCorpus(Corpus):
    """A file, or all files of one kind in a folder and the folders in it, in the order of names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = [path] if path.is_file() else sorted(filter(Path.is_file, path.rglob("*")))
        shown = [
            file
            for file in found
            if file == path
            or not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
        self.files = [file for file in shown if extension(file) in READABLE]
        kinds = sorted({extension(file) for file in self.files})
        if len(kinds) != 1:
            what = f"files of several kinds: {', '.join(kinds)}" if kinds else "no such file"
            raise UserError(
                f"`corpus={str(path)!r}`: expected a file that ends in one of "
                f"{', '.join(READABLE)} (all but .parquet also with .gz), or a folder with files "
                f"of one such kind, but got {what if path.is_dir() else path.name}."
            )
        (self.kind,) = kinds
        self._unknown = [file for file in shown if file not in set(self.files)]

    @property
    @override
    def name(self) -> str:
        return str(self.path)

    @property
    @override
    def notes(self) -> list[str]:
        return left_out(self._unknown, "unknown kind of file")

    @cached_property
    @override
    def columns(self) -> list[str]:  # type: ignore[override]
        if self.kind == TXT:
            return ["text"]
        known = column_names(self.files[0])
        if known is not None:
            return known
        rows = self.records([], ShardFilter(Shard()))
        return next((list(row.value) for row in rows if isinstance(row.value, dict)), [])

    @override
    def records(self, columns: Sequence[str], picker: ShardFilter) -> Iterator[Row]:
        for file in self.files:
            try:
                if self.kind == TXT:
                    for row in read_txt(file, "text", picker):
                        yield row._replace(value={"text": row.value})
                else:
                    yield from RECORD_READERS[self.kind](file, columns, picker)
            except (EOFError, OSError, zlib.error) as error:
                raise UserError(f"{file} cannot be read to its end: {error}") from error

    @override
    def identity(self) -> dict[str, Any]:
        root = self.path if self.path.is_dir() else self.path.parent
        return {"files": {str(file.relative_to(root)): _content(file) for file in self.files}}

    @override
    def count(self) -> int | None:
        return sum(map(_rows_in, self.files))


def _content(file: Path) -> str:
    """A digest of a file's size and of blocks from its beginning to its end."""
    size = file.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=8)
    with file.open("rb") as content:
        for i in range(BLOCKS):
            content.seek(max(0, size - BLOCK) * i // (BLOCKS - 1))
            digest.update(content.read(BLOCK))
    return digest.hexdigest()


def _rows_in(file: Path) -> int:
    """The number of rows: exact in Parquet, by the ends of lines elsewhere."""
    kind = extension(file)
    if kind == ".parquet":
        import pyarrow.parquet as pq

        return int(pq.read_metadata(file).num_rows)
    opener: Any = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rb") as content:
        lines = sum(block.count(b"\n") for block in iter(lambda: content.read(1 << 20), b""))
    if kind in (".csv", ".tsv"):  # a field may hold several lines
        first = [row.number for row in islice(RECORD_READERS[kind](file, []), 1000)]
        lines = lines * len(first) // max([1, *first])
    return int(lines)
