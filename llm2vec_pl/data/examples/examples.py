"""Examples for contrastive training, kept on disk: a query, its positives and its negatives."""

from __future__ import annotations

import bisect
import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from llm2vec_pl.data.examples.example import Candidates, Example
from llm2vec_pl.data.files import text_id

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llm2vec_pl.data.examples.token_counts import TokenCounter

_ROWS_PER_RECORD_BATCH = 10_000
_CHARACTERS_PER_RECORD_BATCH = 4_000_000  # a column of strings holds 2 GB at most


class Examples(Protocol):
    """The examples of one task and split.

    `lengths` holds the number of characters of each, used to batch texts of similar length.
    """

    lengths: NDArray[np.int64]

    def __len__(self) -> int: ...

    def example(self, row: int, epoch: int) -> Example:
        """One example; if its row has several positives or negatives, those drawn in an epoch."""

    def tokens(self, counter: TokenCounter) -> NDArray[np.int64]:
        """The most tokens that each can have, whichever texts an epoch draws; for `max_tokens`."""


def write_candidates(rows: Iterable[Candidates], folder: Path) -> None:
    """Writes rows as an Arrow file, with the ids of their texts and the length of each row.

    Args:
        rows: the rows, read once.
        folder: gets `rows.arrow`, `query_ids.npy` (N,), `positives.npy` (P, 2), pairs of a row's
            number and the id of one of its positives, and `lengths.npy` (N,).
    """
    import pyarrow as pa

    texts = pa.list_(pa.string())
    schema = pa.schema([("query", pa.string()), ("positive", texts), ("negative", texts)])
    ids: list[int] = []
    positives: list[tuple[int, int]] = []
    lengths: list[int] = []
    path = str(folder / "rows.arrow")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, schema) as out:
        for batch in _record_batches(rows):
            numbered = enumerate(batch, len(ids))
            positives += [(n, text_id(text)) for n, row in numbered for text in row.positives]
            ids += [text_id(row.query) for row in batch]
            lengths += [_length(row) for row in batch]
            columns = zip(*batch, strict=True)
            arrays = [pa.array(c, kind) for c, kind in zip(columns, schema.types, strict=True)]
            out.write_batch(pa.record_batch(arrays, schema=schema))
    np.save(folder / "query_ids.npy", np.array(ids, np.int64))
    np.save(folder / "positives.npy", np.array(positives, np.int64).reshape(-1, 2))
    np.save(folder / "lengths.npy", np.array(lengths, np.int64))


def _record_batches(rows: Iterable[Candidates]) -> Iterator[list[Candidates]]:
    batch: list[Candidates] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(row.query) + sum(map(len, row.positives)) + sum(map(len, row.negatives))
        if len(batch) == _ROWS_PER_RECORD_BATCH or characters >= _CHARACTERS_PER_RECORD_BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _length(row: Candidates) -> int:
    return len(row.query) + len(row.positives[0] if row.positives else row.query)


class ArrowExamples:
    """Rows of a folder written by `write_candidates`, memory-mapped.

    Args:
        folder: the folder.
        rows: the rows to use, in order; all by default.
        max_negatives: negatives per example; from a row with more, each epoch draws some.
        seed: seed of the draw, which is a function of seed, epoch and row.
    """

    def __init__(
        self,
        folder: Path,
        rows: NDArray[np.int64] | None = None,
        max_negatives: int = 1,
        seed: int = 0,
    ) -> None:
        self.folder = folder
        self.max_negatives = max_negatives
        self.seed = seed
        lengths = np.load(folder / "lengths.npy", mmap_mode="r")
        self.rows = np.arange(len(lengths)) if rows is None else rows
        self.lengths: NDArray[np.int64] = lengths[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, row: int, epoch: int) -> Example:
        """One example, with the positive and the negatives drawn in an epoch."""
        found = self.candidates(row)
        positives, negatives = list(found.positives), list(found.negatives)
        draw = random.Random(f"{self.seed} {epoch} {self.rows[row]}")
        positive = draw.choice(positives) if len(positives) > 1 else (positives or [found.query])[0]
        if len(negatives) > self.max_negatives:
            negatives = draw.sample(negatives, self.max_negatives)
        return Example(found.query, positive, negatives)

    def candidates(self, row: int) -> Candidates:
        """All texts of a row."""
        starts, batches = self._file
        index = int(self.rows[row])
        batch = bisect.bisect_right(starts, index) - 1
        columns = batches[batch].columns
        return Candidates(*(column[index - starts[batch]].as_py() for column in columns))

    def tokens(self, counter: TokenCounter) -> NDArray[np.int64]:
        """The most tokens that each can have, whichever texts an epoch draws."""

        def count() -> NDArray[np.int64]:
            counts: list[int] = []
            for batch in self._file[1]:
                columns = [column.to_pylist() for column in batch.columns]
                rows = [Candidates(*row) for row in zip(*columns, strict=True)]
                counts += counter.most(rows, self.max_negatives)
            return np.array(counts, np.int64)

        # All rows of the folder: the two splits are often parts of it.
        recipe = {"folder": str(self.folder.resolve()), "max_negatives": self.max_negatives}
        return counter.kept(recipe, count)[self.rows]

    @cached_property
    def _file(self) -> tuple[list[int], list[Any]]:
        import pyarrow as pa

        batches = list(pa.ipc.open_stream(pa.memory_map(str(self.folder / "rows.arrow"))))
        return np.cumsum([0, *map(len, batches)]).tolist(), batches

    def __getstate__(self) -> dict[str, Any]:  # a loader's worker maps the file itself
        return {name: value for name, value in self.__dict__.items() if name != "_file"}


class ListedExamples:
    """Examples in memory.

    Args:
        examples: the examples, the same in each epoch.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples
        self.lengths = np.array([len(e.query) + len(e.positive) for e in examples], np.int64)

    def __len__(self) -> int:
        return len(self.examples)

    def example(self, row: int, epoch: int) -> Example:
        """One example."""
        return self.examples[row]

    def tokens(self, counter: TokenCounter) -> NDArray[np.int64]:
        """The number of tokens of each."""
        rows = [Candidates(e.query, [e.positive], e.negatives) for e in self.examples]
        return counter.kept({"texts": digest(rows)}, lambda: np.array(counter.most(rows), np.int64))


def digest(rows: Iterable[Any]) -> str:
    """32 hexadecimal digits that change when the texts do."""
    content = hashlib.blake2b(digest_size=16)
    for row in rows:
        content.update(repr(row).encode(errors="surrogatepass"))
    return content.hexdigest()
