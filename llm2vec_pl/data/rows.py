"""Rows of files, each with its line, and what to do with a row that holds no text."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO, cast

from llm2vec_pl.errors import UserError

OnBadRow = Literal["error", "skip"]


class Broken(str):
    """Stands in a row for a value that could not be read; the string says why."""


class Row(NamedTuple):
    """A value and where it was found."""

    value: object
    file: str
    number: int  # from 1
    unit: str = "line"

    @property
    def place(self) -> str:
        """Such as `data/a.jsonl line 17`."""
        return f"{self.file} {self.unit} {self.number:,}"


class GoodTexts:
    """The texts among rows; the other rows are counted and skipped, or the first is an error.

    Args:
        rows: read once.
        on_bad_row: `error` or `skip`.

    Raises:
        UserError: a bad row, where `on_bad_row` is `error`.
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
                    "Correct the row, or set --data.on_bad_row skip."
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
    """Why a value is no text: `null`, `empty`, `not a string`, `broken UTF-8`, …; else None."""
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


def read_txt(path: Path, column: str) -> Iterator[Row]:
    """One text a line; empty lines only separate."""
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.isspace():
                yield Row(line.rstrip("\r\n"), str(path), number)


def read_jsonl(path: Path, column: str) -> Iterator[Row]:
    """One JSON object a line; empty lines only separate."""
    with _open(path) as file:
        columns_known = False
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            row = _parsed(line)
            if number == 1 and line.lstrip()[0] == "[":
                raise UserError(
                    f"{path} expected one JSON object a line, but it is a JSON array. "
                    "Write each element on a line of its own."
                )
            if isinstance(row, dict):
                if not columns_known and column not in row:
                    raise no_column(str(path), column, row)
                columns_known = True
                row = row.get(column)
            elif not isinstance(row, Broken):
                row = Broken("not a JSON object")
            yield Row(row, str(path), number)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return Broken("broken JSON")


def read_csv(path: Path, column: str, delimiter: str = ",") -> Iterator[Row]:
    """One row a record, below a line with the columns' names."""
    csv.field_size_limit(2**31 - 1)  # the default refuses articles above 131,072 characters
    with _open(path, newline="") as file:
        records = csv.reader(file, delimiter=delimiter)
        header = next(records, [])
        if column not in header:
            raise no_column(str(path), column, header)
        index = header.index(column)
        while True:
            number = records.line_num + 1  # a record may hold several lines
            try:
                record = next(records)
            except StopIteration:
                return
            except csv.Error:
                yield Row(Broken("broken CSV"), str(path), number)
                continue
            if record:
                yield Row(record[index] if index < len(record) else None, str(path), number)


def read_tsv(path: Path, column: str) -> Iterator[Row]:
    """As `read_csv`, with tabs."""
    return read_csv(path, column, delimiter="\t")


def read_parquet(path: Path, column: str) -> Iterator[Row]:
    """One row a row, a thousand in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}") from error
    with file:
        if column not in file.schema_arrow.names:
            raise no_column(str(path), column, file.schema_arrow.names)
        number = 0
        for batch in file.iter_batches(batch_size=1000, columns=[column]):
            for value in _python_values(batch.column(0)):
                number += 1
                yield Row(value, str(path), number, "row")


def _python_values(column: Any) -> list[object]:
    import pyarrow as pa

    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        values = column.cast(pa.large_binary()).to_pylist()
        return [value and value.decode(errors="surrogateescape") for value in values]


def no_column(where: str, column: str, columns: Iterable[str]) -> UserError:
    """The error for a column that is not there; it lists those that are."""
    return UserError(
        f"{where} has no column {column!r}; its columns are: {', '.join(columns) or 'none'}. "
        "Set --data.column."
    )


def _open(path: Path, newline: str = "\n") -> TextIO:
    # "surrogateescape": a broken byte must not end the file, it is one bad row
    how = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": newline}
    opener: Any = gzip.open if path.suffix == ".gz" else open
    return cast(TextIO, opener(path, "rt", **how))


READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".txt": read_txt,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}


def extension(path: Path) -> str:
    """A file's extension in small letters, that of `a.jsonl.gz` being `.jsonl`."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix
