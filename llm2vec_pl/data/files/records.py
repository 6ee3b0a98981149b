"""Records of files, each with its place; rows of text and rows of pairs are made from them."""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

from llm2vec_pl.data.files.csv_lines import Record, separated_values
from llm2vec_pl.data.files.shards import Shard, ShardFilter
from llm2vec_pl.errors import UserError

_PARQUET_BUFFER = 1 << 20  # bytes; without a buffer, a row group's whole column is in memory


class Broken(str):
    """Stands in for a value that could not be read; the string says why."""


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


def json_records(
    path: Path, columns: Sequence[str], picker: ShardFilter | None = None
) -> Iterator[Row]:
    """One JSON object per line, with all its keys; empty lines are skipped.

    Args:
        path: the file.
        columns: not used; each object may have different ones.
        picker: picks the rows to parse; all by default.
    """
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            if number == 1 and line.lstrip()[0] == "[":
                raise UserError(
                    f"{path}: expected one JSON object per line, but got a JSON array. "
                    "Write each element on its own line."
                )
            if picker and not picker.wants():
                continue
            value = _parsed(line)
            if not isinstance(value, (dict, Broken)):
                value = Broken("not a JSON object")
            yield Row(value, str(path), number)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return Broken("broken JSON")


def csv_records(
    path: Path, columns: Sequence[str], picker: ShardFilter | None = None, delimiter: str = ","
) -> Iterator[Row]:
    """One record per row, below a line with the columns' names; with those of `columns` that exist.

    Raises:
        UserError: if the line with the columns' names cannot be read, or has one of them twice.
    """
    with open_text(path, newline="") as file:
        records = separated_values(file, delimiter)
        header = _header(path, records)
        if twice := [name for name in columns if header.count(name) > 1]:
            raise UserError(f"{path} has several columns {twice[0]!r}. Give each its own name.")
        wanted = {name: header.index(name) for name in columns if name in header}
        for line, fields, problem in records:
            if not (fields or problem) or (picker and not picker.wants()):
                continue
            if any(fields[len(header) :]):  # a text with an unquoted delimiter would lose its end
                problem = "more fields than columns"
            value = {name: fields[i] for name, i in wanted.items() if i < len(fields)}
            yield Row(Broken(problem) if problem else value, str(path), line)


def _header(path: Path, records: Iterator[Record]) -> list[str]:
    first = next(records, Record(1, []))
    if first.problem:
        raise UserError(
            f"{path} line 1: expected the columns' names, but got {first.problem}. "
            "Correct the line."
        )
    return first.fields


def tsv_records(
    path: Path, columns: Sequence[str], picker: ShardFilter | None = None
) -> Iterator[Row]:
    """As `csv_records`, with tabs."""
    return csv_records(path, columns, picker, delimiter="\t")


def parquet_records(
    path: Path, columns: Sequence[str], picker: ShardFilter | None = None
) -> Iterator[Row]:
    """One record per row, with those of `columns` that exist, a thousand in memory at a time.

    Row groups from which nothing is picked are not read.
    """
    picker = picker or ShardFilter(Shard())
    with _parquet(path) as file:
        wanted = [name for name in columns if name in file.schema_arrow.names]
        start = 1
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if picker.passes(rows):
                start += rows
                continue
            for batch in file.iter_batches(batch_size=1000, row_groups=[group], columns=wanted):
                chosen = picker.wanted(batch.num_rows)
                picked = [_python_values(column.take(list(chosen))) for column in batch.columns]
                for i, *values in zip(chosen, *picked, strict=True):
                    value = dict(zip(wanted, values, strict=True))
                    yield Row(value, str(path), start + i, "row")
                start += batch.num_rows


def column_names(path: Path) -> list[str] | None:
    """The columns of a file; None if each record has its own, as in JSON lines."""
    kind = extension(path)
    if kind == ".parquet":
        with _parquet(path) as file:
            return list(file.schema_arrow.names)
    if kind in (".csv", ".tsv"):
        with open_text(path, newline="") as file:
            return _header(path, separated_values(file, "\t" if kind == ".tsv" else ","))
    return None


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, buffer_size=_PARQUET_BUFFER)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} cannot be read as Parquet: {error}") from error


def _python_values(column: Any) -> list[object]:
    import pyarrow as pa

    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        lists = not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type)
        values = column.cast(pa.list_(pa.large_binary()) if lists else pa.large_binary())
        return [_decoded(value) for value in values.to_pylist()]


def _decoded(value: Any) -> object:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value and value.decode(errors="surrogateescape")


def no_column(
    where: str, column: str, columns: Iterable[str], argument: str = "column"
) -> UserError:
    """The error for a missing column; it lists the existing ones."""
    return UserError(
        f"{where} has no column {column!r}; its columns are: {', '.join(columns) or 'none'}. "
        f"Set `{argument}`."
    )


def open_text(path: Path, newline: str = "\n") -> TextIO:
    """Opens a text file, also with .gz, in UTF-8 with or without a byte order mark.

    Raises:
        UserError: if it is in UTF-16.
    """
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise UserError(
                f"{path} is in UTF-16; expected UTF-8. Convert it: iconv -f UTF-16 -t UTF-8."
            )
    # "surrogateescape": a broken byte makes one bad row, and must not end the file
    how = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": newline}
    return cast(TextIO, opener(path, "rt", **how))


def cannot_be_on_the_hub(path: str, extensions: Container[str]) -> bool:
    """Whether a missing path can only be a local one, by its form or its extension."""
    return path[:1] in "/.~" or path.count("/") > 1 or extension(Path(path)) in extensions


def extension(path: Path) -> str:
    """A file's extension in lower case; for `a.jsonl.gz` it is `.jsonl`."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


RecordReader = Callable[..., Iterator[Row]]  # (path, columns, picker=None)
RECORD_READERS: dict[str, RecordReader] = {
    ".jsonl": json_records,
    ".ndjson": json_records,
    ".json": json_records,
    ".csv": csv_records,
    ".tsv": tsv_records,
    ".parquet": parquet_records,
}
