"""The interface of a corpus: rows with columns, in an order that never changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from llm2vec_pl.data.files import Row, ShardFilter


class Corpus(Protocol):
    """Rows with columns, which can be read any number of times."""

    @property
    def name(self) -> str:
        """What errors call it."""

    @property
    def notes(self) -> list[str]:
        """Lines to print, such as on files that are left out."""

    @property
    def columns(self) -> list[str]:
        """The columns of the first row."""

    def records(self, columns: Sequence[str], picker: ShardFilter) -> Iterator[Row]:
        """The picked rows: each value is a dict with those of `columns` that the row has.

        A row that cannot be read has a value that says why. After the last one, `picker.passed` is
        the number of all rows.

        Raises:
            UserError: if a file cannot be read.
        """

    def identity(self) -> dict[str, Any]:
        """A value for JSON that changes when the rows do."""

    def count(self) -> int | None:
        """About how many rows there are; None if that is not known without reading them."""
