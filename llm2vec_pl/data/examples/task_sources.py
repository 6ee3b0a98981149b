"""Where tasks come from: a file, the files of a folder, or a data set of the hub."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from typing_extensions import override

from llm2vec_pl.data.examples.candidates import Columns
from llm2vec_pl.data.files import (
    RECORD_READERS,
    HubDataset,
    PairColumns,
    Row,
    Split,
    column_names,
    extension,
    is_split_word,
    left_out,
    local_path,
    no_column,
    split_of,
)
from llm2vec_pl.errors import UserError


class TaskSource(Protocol):
    """The records of one task, in splits.

    `left_out` says why it is not used unless named; it is empty for a task that is used.
    """

    name: str
    left_out: str

    @property
    def notes(self) -> list[str]:
        """Lines to print: what is read differently from what its name says."""

    @property
    def splits(self) -> set[str]:
        """The splits that have records of their own."""

    def place(self, split: Split) -> str:
        """Where a split's records are, for errors."""

    def rows(
        self, split: Split, columns: Columns | PairColumns, max_rows: int | None
    ) -> Iterator[Row]:
        """The records of a split, in a fixed order."""

    def identity(self, split: Split) -> Any:
        """What changes when the records do, as JSON."""


def open_tasks(path: str, subset: str | None) -> list[TaskSource]:
    """The tasks of a folder, file or data set of the hub, sorted by name.

    Raises:
        UserError: if there is no such file, or none that can be read.
    """
    local = local_path(path)
    if local is None:
        return [HubTask(path, subset)]
    if local.is_file():
        _require_known(local)
        return [FileTask(_stem(local), {"train": [local]})]
    files = [f for f in sorted(local.iterdir()) if f.is_file() and extension(f) in RECORD_READERS]
    if not files:
        raise UserError(
            f"`path={str(local)!r}` holds no file with examples. "
            f"Expected a file that ends in one of: {', '.join(RECORD_READERS)}."
        )
    tasks: dict[str, FileTask] = {}
    for file in files:
        name, split = _task_and_split(file)
        task = tasks.setdefault(name, FileTask(name))
        task.files.setdefault(split, []).append(file)
    for task in tasks.values():
        parts = [name for name in tasks if re.fullmatch(re.escape(task.name) + r"_split\d+", name)]
        if parts:
            task.left_out = f"its rows are those of {' and '.join(parts)}"
        elif "train" not in task.files:
            task.left_out = f"it only has {' and '.join(sorted(task.files))} files"
    return list(tasks.values())


def unknown_files(path: str) -> list[str]:
    """A line on the files of a folder that no reader knows; no line if there are none."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return []
    files = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".")]
    unknown = [file for file in files if file.is_dir() or extension(file) not in RECORD_READERS]
    return left_out(unknown, "a folder, or an unknown kind of file")


def _require_known(file: Path) -> None:
    if extension(file) not in RECORD_READERS:
        raise UserError(
            f"`path={str(file)!r}` has an unknown extension. "
            f"Known are: {', '.join(RECORD_READERS)}, and each with .gz except .parquet."
        )


def _stem(file: Path) -> str:
    return Path(file.name.removesuffix(".gz")).stem


def _task_and_split(file: Path) -> tuple[str, str]:
    """`nq.jsonl` -> nq, train; `nq-dev.jsonl` -> nq, validation; `train-00.parquet` -> FOLDER."""
    stem = _stem(file)
    split = split_of(stem)
    if split is None:
        return stem, "train"
    words = [w for w in re.split(r"[-_.]+", stem) if not (is_split_word(w) or w.isdecimal())]
    return "_".join(word for word in words if word != "of") or file.absolute().parent.name, split


@dataclass
class FileTask(TaskSource):
    """The files of one task."""

    name: str
    files: dict[str, list[Path]] = field(default_factory=dict)
    left_out: str = ""

    @property
    @override
    def notes(self) -> list[str]:
        return []

    @property
    @override
    def splits(self) -> set[str]:
        return set(self.files)

    @override
    def place(self, split: Split) -> str:
        return ", ".join(map(str, self.files[split]))

    @override
    def rows(
        self, split: Split, columns: Columns | PairColumns, max_rows: int | None
    ) -> Iterator[Row]:
        return islice(self._rows(split, columns), max_rows)

    def _rows(self, split: Split, columns: Columns | PairColumns) -> Iterator[Row]:
        if split not in self.files:
            raise UserError(f"`tasks`: {self.name} cannot be trained on: {self.left_out}.")
        for file in self.files[split]:
            require_columns(str(file), columns, column_names(file))
            try:
                yield from RECORD_READERS[extension(file)](file, columns)
            except (EOFError, OSError, zlib.error) as error:
                raise UserError(f"{file} cannot be read to its end: {error}") from error

    @override
    def identity(self, split: Split) -> Any:
        return [
            (str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns)
            for file in self.files.get(split, [])
        ]


class HubTask(TaskSource):
    """A data set of the hub as one task."""

    left_out = ""

    def __init__(self, path: str, subset: str | None) -> None:
        self.name = path.rsplit("/", 1)[-1]
        self.dataset = HubDataset(path, subset, "", streaming=False)

    @property
    @override
    def notes(self) -> list[str]:
        return self.dataset.notes

    @property
    @override
    def splits(self) -> set[str]:
        return self.dataset.splits

    @override
    def place(self, split: Split) -> str:
        return f"{self.dataset.path} ({split})"

    @override
    def rows(
        self, split: Split, columns: Columns | PairColumns, max_rows: int | None
    ) -> Iterator[Row]:
        require_columns(self.place(split), columns, self.dataset.columns(split))
        return islice(self.dataset.records(split, columns), max_rows)

    @override
    def identity(self, split: Split) -> Any:
        return [self.dataset.identity(), split]


def require_columns(
    where: str, columns: Columns | PairColumns, there: Iterable[str] | None
) -> None:
    """Raises an error that names the argument if a required column is missing."""
    if there is None:
        return
    there = list(there)
    for role, column in columns._asdict().items():
        needed = role != "negative" or column != Columns().negative
        if needed and column not in there:
            raise no_column(where, column, there, f"{role}_column")
