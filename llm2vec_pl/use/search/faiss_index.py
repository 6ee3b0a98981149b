"""An inverted file of FAISS: the nearest of many embeddings without looking at all of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm2vec_pl.errors import UserError
from llm2vec_pl.files import unfinished

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

FILE = "faiss.index"
WORTH_IT = 200_000
"""Passages from which FAISS is used if it is installed; fewer are compared in a fraction of a
second."""

_AT_ONCE = 65536  # embeddings in memory while the file is built
_SAMPLE = 64  # embeddings for each list, from which the lists are learned
_LISTS_LOOKED_AT = 16  # of so many, one


def has_faiss() -> bool:
    """Whether FAISS is installed."""
    return importlib.util.find_spec("faiss") is not None


class FaissIndex:
    """Embeddings in lists of similar ones, of which a search looks at one in sixteen.

    The file, in half precision, is built once and kept beside the embeddings.

    Args:
        folder: where the file is.
        embeddings: (N, D).

    Raises:
        UserError: if FAISS is not installed.
    """

    def __init__(self, folder: Path, embeddings: Vectors) -> None:
        if not has_faiss():
            raise UserError(
                '`backend="faiss"` needs FAISS, which is not installed. '
                'Install it with: pip install "llm2vec_pl[search]"'
            )
        self.file, self.embeddings = folder / FILE, embeddings

    @property
    def is_built(self) -> bool:
        """Whether the file is there."""
        return self.file.is_file()

    def search(self, query: Vectors, top: int) -> list[tuple[int, float]]:
        """(number, cosine) of the nearest embeddings, nearest first; a few may be overlooked."""
        import faiss

        if not self.is_built:
            self.build()
        index: Any = faiss.read_index(str(self.file), faiss.IO_FLAG_MMAP)
        # Not fewer lists than hold what is asked for.
        lists = max(1, index.nlist // _LISTS_LOOKED_AT, 2 * top * index.nlist // index.ntotal + 1)
        index.nprobe = min(index.nlist, lists)
        scores, numbers = index.search(_normalised(query[None]), min(top, index.ntotal))
        found = zip(numbers[0].tolist(), scores[0].tolist(), strict=True)
        return [(number, score) for number, score in found if number >= 0]

    def build(self) -> None:
        """Writes the file: some 10 seconds for 100,000 embeddings of 256 numbers on a core."""
        import faiss

        count, size = self.embeddings.shape
        lists = max(1, min(int(2 * count**0.5), count // 39))  # FAISS wants 39 for each list
        index: Any = faiss.index_factory(size, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
        sample = np.linspace(0, count - 1, min(count, _SAMPLE * lists)).astype(np.int64)
        index.train(_normalised(self.embeddings[sample]))
        for start in range(0, count, _AT_ONCE):
            index.add(_normalised(self.embeddings[start : start + _AT_ONCE]))
        with unfinished(self.file) as new:
            faiss.write_index(index, str(new))


def _normalised(vectors: Vectors) -> Vectors:
    norms: Vectors = np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    return np.asarray(vectors / norms, np.float32)
