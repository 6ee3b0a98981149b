"""Passages and their embeddings in a folder, read as they are needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from llm2vec_pl.evaluation import Nearest
from llm2vec_pl.files import read_json
from llm2vec_pl.use.search.faiss_index import FaissIndex
from llm2vec_pl.use.search.passages import Passage
from llm2vec_pl.use.search.store import KEY, Known

if TYPE_CHECKING:
    from numpy.typing import NDArray

SETTINGS, PASSAGES, STARTS, KEYS, EMBEDDINGS = (
    "index.json", "passages.jsonl", "starts.npy", "keys.npy", "embeddings.npy",
)  # fmt: skip


class Hit(NamedTuple):
    """A passage that was found, and its cosine similarity to the query."""

    score: float
    passage: Passage


class Index:
    """N passages with their embeddings; nothing but what is asked for is read into memory.

    Args:
        folder: one that `write` has filled.

    Raises:
        ValueError, OSError, KeyError: if it is not there, or not whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = read_json(folder / SETTINGS)
        self.state: dict[str, Any] = self.settings["state"]
        self.passages = PassageFile(folder)
        self.embeddings: NDArray[np.float32] = np.load(folder / EMBEDDINGS, mmap_mode="c")
        self.keys = np.load(folder / KEYS).view(KEY)
        if not len(self.passages) == len(self.embeddings) == len(self.keys):
            raise ValueError(f"{folder} is not whole")

    def __len__(self) -> int:
        return len(self.passages)

    @property
    def known(self) -> Known:
        """The embeddings by the hash of their text."""
        return Known(self.keys, self.embeddings)

    def search(self, query: Tensor, top: int, approximate: bool = False) -> list[Hit]:
        """The passages nearest to a query, nearest first.

        Args:
            query: its embedding, (D,).
            top: how many; fewer if there are fewer passages.
            approximate: by FAISS, which looks at a part of the passages; otherwise at all.

        Raises:
            UserError: if FAISS is asked for and is not installed.
        """
        if approximate:
            found = FaissIndex(self.folder, self.embeddings).search(query.numpy(), top)
        else:
            nearest = Nearest(query[None], top)
            nearest.add(torch.from_numpy(self.embeddings))
            found = list(zip(nearest.indices[0].tolist(), nearest.scores[0].tolist(), strict=True))
        return [Hit(score, self.passages[row]) for row, score in found]


class PassageFile:
    """Passages on disk, found by their number."""

    def __init__(self, folder: Path) -> None:
        # A copy in memory, of 8 bytes a passage; the file stays open, so that another process can
        # put a new index in its place.
        self.starts: NDArray[np.int64] = np.load(folder / STARTS)
        self._file = (folder / PASSAGES).open("rb")
        if (folder / PASSAGES).stat().st_size != self.starts[-1]:
            raise ValueError(f"{folder / PASSAGES} is not whole")

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> Passage:
        start, end = self.starts[row : row + 2].tolist()
        self._file.seek(start)
        return Passage(*json.loads(self._file.read(end - start)))


def write_passages(passages: Iterator[Passage], folder: Path) -> Iterator[Passage]:
    """Writes passages to a folder, and yields each after it was written."""
    starts = [0]
    with (folder / PASSAGES).open("wb") as file:
        for passage in passages:
            starts.append(starts[-1] + _write(passage, file))
            yield passage
    np.save(folder / STARTS, np.array(starts, np.int64))


def _write(passage: Passage, file: IO[bytes]) -> int:
    return file.write(json.dumps(passage).encode() + b"\n")
