"""Rows of text in files, each with its line, and what to do with a row without text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from llm2vec_pl.data.files.records import (
    RECORD_READERS,
    Broken,
    Row,
    column_names,
    extension,
    no_column,
    open_text,
)
from llm2vec_pl.data.files.shards import ShardFilter
from llm2vec_pl.errors import UserError

__all__ = [
    "READERS",
    "Broken",
    "GoodTexts",
    "OnBadRow",
    "Row",
    "extension",
    "no_column",
    "problem_of",
    "read_column",
    "read_txt",
]

OnBadRow = Literal["error", "skip"]


class GoodTexts:
    """The texts among rows; the other rows are counted and skipped, or the first is an error.

    Args:
        rows: the rows, read once.
        on_bad_row: `error` or `skip`.

    Raises:
        UserError: for a bad row, if `on_bad_row` is `error`.
    """

    def __init__(self, rows: Iterable[Row], on_bad_row: OnBadRow) -> None:
        self.rows = rows
        self.on_bad_row = on_bad_row
        self.read = 0
        self.skipped: Counter[str] = Counter()
        self.first_skipped = ""

    def __iter__(self) -> Iterator[str]:
        for row in self.rows:
            self.read += 1
            problem = problem_of(row.value)
            if problem is None:
                yield row.value  # type: ignore[misc]
                continue
            if self.on_bad_row == "error":
                raise UserError(
                    f"{row.place}: expected a text, but got {_shown(row.value, problem)}. "
                    'Correct the row, or set `on_bad_row="skip"`.'
                )
            self.first_skipped = self.first_skipped or row.place
            self.skipped[problem] += 1

    @property
    def summary(self) -> str:
        """Such as `skipped 3 of 1,002 rows: 2 null, 1 broken JSON (first: a.jsonl line 17)`."""
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.skipped.most_common())
        return (
            f"skipped {self.skipped.total():,} of {self.read:,} rows: {kinds} "
            f"(first: {self.first_skipped})"
        )


def problem_of(value: object) -> str | None:
    """Why a value is not a text: `null`, `empty`, `not a string`, `broken UTF-8`, …; else None."""
    if isinstance(value, Broken):
        return str(value)
    if value is None:
        return "null"
    if not isinstance(value, str):
        return "not a string"
    if not value.strip():
        return "empty"
    try:
        value.encode()
    except UnicodeEncodeError:  # an undecodable byte, kept by "surrogateescape"; or half a pair
        return "broken UTF-8"
    return None


def _shown(value: object, problem: str) -> str:
    if problem != "not a string":
        return problem
    return f"{type(value).__name__} {str(value)[:40]}"


def read_txt(path: Path, column: str, picker: ShardFilter | None = None) -> Iterator[Row]:
    """One text per line; empty lines are skipped."""
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.isspace() and (not picker or picker.wants()):
                yield Row(line.rstrip("\r\n"), str(path), number)


def read_column(path: Path, column: str, picker: ShardFilter | None = None) -> Iterator[Row]:
    """One column of a file of records.

    Raises:
        UserError: if the file (in JSON lines, its first object) has no such column.
    """
    reader = RECORD_READERS[extension(path)]
    columns: Iterable[str] | None = column_names(path)
    if columns is None:
        records = (row.value for row in reader(path, [column]))
        columns = next((value for value in records if isinstance(value, dict)), None)
    if columns is not None and column not in columns:
        raise no_column(str(path), column, columns)
    for row in reader(path, [column], picker):
        yield row._replace(value=row.value.get(column)) if isinstance(row.value, dict) else row


READERS: dict[str, Callable[[Path, str, ShardFilter | None], Iterator[Row]]] = {
    ".txt": read_txt,
    **dict.fromkeys(RECORD_READERS, read_column),
}
