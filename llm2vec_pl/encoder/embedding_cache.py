"""Embeddings on disk, by the hash of their text; several processes may read and write at once."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm2vec_pl.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.floating[Any]]

_AT_ONCE = 500  # keys in a query; older versions of SQLite take no more than 999
_PATIENCE = 60.0  # seconds to wait for another process


def text_key(text: str) -> bytes:
    """16 bytes that identify a text."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


class EmbeddingCache:
    """Vectors of one size, in an SQLite database in a folder.

    SQLite undoes what a killed process left half written. A file that is damaged all the same is
    deleted, and another one begun, under another name: a process may still be writing to it.

    Args:
        folder: the folder, which is there.
        size: number of elements of a vector.
        dtype: of the elements; a folder is always opened with the same one.
        whose: whose embeddings they are, in messages.
    """

    def __init__(
        self, folder: Path, size: int, dtype: type[Any] = np.float32, whose: str = "the encoder"
    ) -> None:
        self.folder = folder
        self.size = size
        self.dtype = np.dtype(dtype)
        self.whose = whose
        self._file: Path | None = None
        self._open: tuple[int, sqlite3.Connection] | None = None

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        """The vectors that are there, (size,) each."""
        found: dict[bytes, Vector] = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(some))
            with self._errors():
                rows = self._connection().execute(
                    f"SELECT key, vector FROM vectors WHERE key IN ({marks})", some
                )
                whole = (
                    (key, vector)
                    for key, vector in rows
                    if len(vector) == self.dtype.itemsize * self.size
                )
                found |= {key: np.frombuffer(vector, self.dtype) for key, vector in whole}
        return found

    def put(self, vectors: Mapping[bytes, Vector]) -> None:
        """Adds vectors, all or none of them; those that are there already are replaced."""
        rows = [(key, vector.astype(self.dtype).tobytes()) for key, vector in vectors.items()]
        with self._errors(), self._connection() as connection:
            connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)

    def __getstate__(self) -> dict[str, object]:  # another process connects by itself
        return {**self.__dict__, "_open": None}

    def _connection(self) -> sqlite3.Connection:
        """A connection of this process: SQLite's may not be taken along into a fork."""
        if self._open is None or self._open[0] != os.getpid():
            files = sorted(self.folder.glob("vectors-*.sqlite"), key=_number)
            self._file = files[-1] if files else self.folder / "vectors-0.sqlite"
            self._open = os.getpid(), self._connected(self._file)
        return self._open[1]

    def _connected(self, file: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(file, timeout=_PATIENCE)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL)"
        )
        return connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Begins another file in place of a damaged one, in which nothing is found."""
        try:
            yield
        except sqlite3.OperationalError as error:  # locked, full, not writable
            raise UserError(
                f"The cache of {self.whose}'s embeddings in {self.folder} cannot be used: {error}. "
                "Free some space, or set the environment variable LLM2VEC_PL_CACHE to a writable "
                "folder on a local disk."
            ) from error
        except sqlite3.DatabaseError as error:
            self._abandon(error)

    def _abandon(self, error: sqlite3.DatabaseError) -> None:
        assert self._file is not None
        warnings.warn(
            f"{self._file} is damaged ({error}); {self.whose} embeds its texts again.", stacklevel=4
        )
        if self._open is not None:
            self._open[1].close()
        new = self._file.with_name(f"vectors-{_number(self._file) + 1}.sqlite")
        self._file.unlink(missing_ok=True)
        self._file = new
        self._open = os.getpid(), self._connected(new)


def _number(file: Path) -> int:
    return int(file.stem.rpartition("-")[2])
