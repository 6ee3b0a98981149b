"""Records with columns of their own, from a file or from a data set of the hub."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llm2vec_pl.data.files.records import (
    RECORD_READERS,
    Row,
    cannot_be_on_the_hub,
    column_names,
    extension,
)
from llm2vec_pl.errors import UserError


def looks_local(path: str | Path) -> bool:
    """Whether this is, or can only be, a local file or folder, and not a name on the hub."""
    if isinstance(path, Path) or Path(path).expanduser().exists():
        return True
    return cannot_be_on_the_hub(path, RECORD_READERS)


def read_records(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The records of a file: each value is a dict, or says why the record cannot be read.

    Args:
        path: a jsonl, csv, tsv or parquet file; all but parquet also with .gz.
        columns: the columns that each record should have; the first one is checked.

    Raises:
        UserError: if the file or a column is missing, or the file cannot be read.
    """
    path = path.expanduser()
    if not path.is_file():
        problem = "is a folder; name a file in it" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {problem} (looked for {path.absolute()}).")
    if extension(path) not in RECORD_READERS:
        raise UserError(
            f"{path} has an unknown extension. Known are: {', '.join(RECORD_READERS)}, "
            "and each with .gz except .parquet."
        )
    known = column_names(path)
    if known is not None:
        require_columns(str(path), columns, known)
    try:
        for row in RECORD_READERS[extension(path)](path, columns):
            if known is None and isinstance(row.value, dict):
                known = list(row.value)
                require_columns(row.place, columns, known)
            yield row
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} cannot be read to its end: {error}") from error


def load_split(path: str, subset: str | None, split: str, columns: Sequence[str]) -> Any:
    """A split of a data set of the hub, or of its cache where the hub cannot be reached.

    Raises:
        UserError: if the data set cannot be loaded, or lacks a column.
    """
    from datasets import load_dataset

    try:
        dataset: Any = load_dataset(path, subset, split=split)
    except Exception as error:
        raise UserError(
            f"{path!r} is not a local file or folder, and it cannot be loaded from the hub "
            f"(subset {subset!r}, split {split!r}): {error}"
        ) from error
    require_columns(f"{path} ({split})", columns, dataset.column_names)
    return dataset


def require_columns(where: str, columns: Sequence[str], known: Sequence[str]) -> None:
    """Raises an error that lists the existing columns if one is missing."""
    missing = [repr(column) for column in columns if column not in known]
    if missing:
        raise UserError(
            f"{where} has no column {', '.join(missing)}; its columns are: "
            f"{', '.join(known) or 'none'}. Expected {', '.join(columns)}."
        )
