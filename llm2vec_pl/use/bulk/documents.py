"""Rows of a corpus -> documents with an id, in chunks that become a file each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, NamedTuple

from llm2vec_pl.data.files import ChunkFilter, OnBadRow, Row, no_column, problem_of
from llm2vec_pl.errors import UserError
from llm2vec_pl.use.bulk.rows import Corpus

ID_COLUMNS = ("_id", "id")
"""Taken for ids where none is named."""

WRITTEN = ("row", "id", "embedding")
"""The columns of a file of embeddings that are not a corpus's."""

SIZE = 10_000
"""Rows in a file, by default."""


class Document(NamedTuple):
    """A row of a corpus."""

    row: int  # in the corpus, from 0
    id: str
    text: str
    kept: tuple[str | None, ...]


@dataclass
class Chunk:
    """Consecutive rows of a corpus, those without a text left out.

    Args:
        number: of the chunk, from 0.
        documents: in the order of the corpus.
        skipped: how many rows are left out, by reason.
    """

    number: int
    documents: list[Document] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def notes(self) -> list[str]:
        """A line on what is left out, if anything is."""
        kinds = ", ".join(f"{count:,} with {why}" for why, count in self.skipped.most_common())
        return [f"file {self.number:,}: rows left out: {kinds}"] * bool(kinds)


@dataclass(frozen=True)
class Columns:
    """Which columns of a corpus become what.

    Args:
        text: the text; of several columns, the texts that there are, joined by a blank.
        id: the id; None numbers the rows.
        keep: columns to copy. What is not a text becomes JSON.
    """

    text: tuple[str, ...] = ("text",)
    id: str | None = None
    keep: tuple[str, ...] = ()

    @property
    def all(self) -> list[str]:
        """Each column once."""
        return list(dict.fromkeys((*self.text, *([self.id] if self.id else []), *self.keep)))


def choose_columns(
    corpus: Corpus,
    text: Sequence[str] = ("text",),
    id_column: str | None = None,
    keep: Sequence[str] = (),
) -> Columns:
    """The columns to read, `_id` or `id` as the id if there is one and no other is named.

    Raises:
        UserError: if the corpus lacks a column; it lists the existing ones.
    """
    there = corpus.columns
    named = {"columns": text, "id_column": [id_column] if id_column else [], "keep": keep}
    for argument, names in named.items():
        for name in names:
            if name not in there:
                raise no_column(corpus.name, name, there, argument)
    if not text:
        raise UserError("`columns` names no column. Expected the one that holds the text.")
    if taken := [name for name in keep if name in WRITTEN]:
        raise UserError(
            f"`keep={taken[0]!r}`: the files have a column {taken[0]!r} of their own. "
            "Rename the corpus's column, or leave it out."
        )
    found = id_column or next((name for name in ID_COLUMNS if name in there), None)
    return Columns(tuple(text), found, tuple(dict.fromkeys(keep)))


class Documents:
    """A corpus cut into chunks of `size` rows.

    Args:
        corpus: the rows.
        columns: the columns to read.
        size: rows in a chunk; the last one may have fewer.
        on_bad_row: what a row without a text or an id is: an error, or skipped and counted.
    """

    def __init__(
        self, corpus: Corpus, columns: Columns, size: int = SIZE, on_bad_row: OnBadRow = "error"
    ) -> None:
        if size < 1:
            raise UserError(f"`rows_per_file` is at least 1 row, but got {size}.")
        self.corpus, self.columns, self.size = corpus, columns, size
        self.on_bad_row = on_bad_row
        self.rows: int | None = None

    def chunks(self, wanted: Callable[[int], bool]) -> Iterator[Chunk]:
        """The chunks with a wanted number, each read when it is asked for.

        The rows of the others are passed over; what is not decoded for it costs little.

        After the last one, `rows` is the number of all rows of the corpus.

        Raises:
            UserError: with file and line, for a row that cannot be used.
        """
        picker = ChunkFilter(self.size, wanted)
        numbers = filter(wanted, count())
        rows = iter(self.corpus.records(self.columns.all, picker))
        for first in rows:  # so there is a chunk that it belongs to
            yield self._chunk(next(numbers), [first, *islice(rows, self.size - 1)])
        self.rows = picker.passed

    def _chunk(self, number: int, rows: Sequence[Row]) -> Chunk:
        chunk = Chunk(number)
        for place, row in enumerate(rows, number * self.size):
            found = self._document(place, row)
            if isinstance(found, Document):
                chunk.documents.append(found)
            elif self.on_bad_row == "skip":
                chunk.skipped[found] += 1
            else:
                raise UserError(
                    f"{row.place}: expected a text and an id, but got {found}. "
                    'Correct the row, or set `on_bad_row="skip"` to leave such rows out.'
                )
        return chunk

    def _document(self, place: int, row: Row) -> Document | str:
        """The document, or the reason why there is none."""
        if not isinstance(row.value, Mapping):
            return str(problem_of(row.value))
        text = _text_of([row.value.get(name) for name in self.columns.text])
        if problem := problem_of(text):
            shown = f" ({type(text).__name__})" if problem == "not a string" else ""
            return f"{problem}{shown} in the column {', '.join(self.columns.text)}"
        key = place if self.columns.id is None else row.value.get(self.columns.id)
        if isinstance(key, bool) or not isinstance(key, (str, int)) or problem_of(str(key)):
            return f"no id in the column {self.columns.id}"
        kept = tuple(_kept(row.value.get(name)) for name in self.columns.keep)
        return Document(place, str(key), str(text), kept)


def _text_of(values: list[object]) -> object:
    """The text, or what stands in its place; several are joined by a blank, as BEIR's titles."""
    if len(values) == 1:
        return values[0]
    others = [value for value in values if value is not None and not isinstance(value, str)]
    return others[0] if others else " ".join(str(value) for value in values if value)


def _kept(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode(errors="replace").decode()
