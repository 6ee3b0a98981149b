"""Embeddings by the hash of their text, on disk: what has been embedded survives a kill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Keys = NDArray[np.bytes_]
    Vectors = NDArray[np.float32]

KEY = np.dtype("S16")
"""What `text_key` gives for a text."""


class Known(NamedTuple):
    """Embeddings that are there already: N keys, and the vector of each, (N, D)."""

    keys: Keys
    vectors: Vectors

    def rows(self, keys: Keys) -> NDArray[np.int64]:
        """The row of each key, (K,); -1 where it is not known."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        order = np.argsort(self.keys, kind="stable")
        places = np.searchsorted(self.keys, keys, sorter=order).clip(max=len(order) - 1)
        rows: NDArray[np.int64] = order[places]
        return np.where(self.keys[rows] == keys, rows, -1)


class EmbeddingLog:
    """Embeddings in the order in which they were made, in two files that only grow.

    The keys are written after their vectors; what a killed process left half written is cut off.

    Args:
        folder: the folder of the files, which is there.
        size: D, the size of an embedding.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._keys, self._vectors = folder / "log.keys", folder / "log.vectors"
        self.size = size

    def append(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        """Adds embeddings, (K, D)."""
        self._cut()
        with self._vectors.open("ab") as file:
            file.write(np.ascontiguousarray(vectors, np.float32).tobytes())
        with self._keys.open("ab") as file:
            file.write(np.array(keys, KEY).tobytes())

    def read(self) -> Known:
        """All that is whole."""
        count = self._cut()
        if not count:
            return Known(np.empty(0, KEY), np.empty((0, self.size), np.float32))
        vectors = np.memmap(self._vectors, np.float32, "r", shape=(count, self.size))
        return Known(np.fromfile(self._keys, KEY), vectors)

    def delete(self) -> None:
        """Removes the files."""
        self._keys.unlink(missing_ok=True)
        self._vectors.unlink(missing_ok=True)

    def _cut(self) -> int:
        """Removes what is not whole; how many embeddings are left."""
        for file in (self._keys, self._vectors):
            file.touch()
        row = 4 * self.size
        count = min(self._keys.stat().st_size // KEY.itemsize, self._vectors.stat().st_size // row)
        for file, width in ((self._keys, KEY.itemsize), (self._vectors, row)):
            if file.stat().st_size != count * width:
                with file.open("r+b") as opened:
                    opened.truncate(count * width)
        return count
