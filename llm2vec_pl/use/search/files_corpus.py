"""A file, or the files of a folder, as a corpus."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm2vec_pl.data.files import (
    RECORD_READERS,
    Row,
    column_names,
    extension,
    left_out,
    no_column,
    open_text,
    problem_of,
)
from llm2vec_pl.errors import UserError
from llm2vec_pl.use.search.document import Document

PROSE = (".txt", ".md", ".markdown", ".rst")
"""Kinds of files that are one text each; those of `RECORD_READERS` have one in each row."""

_LOOKED_AT = 8192  # bytes in which a NUL tells that a file is no text


class FilesCorpus:
    """Text files and files of records; in a folder, also those of the folders in it.

    What cannot be read in a folder is left out, with a note; a file that is named has to be
    readable.

    Args:
        path: the file or folder.
        column: the column with the text, in files of records. Their column `title`, if there is
            one, goes with it.

    Raises:
        UserError: if it does not exist, or holds no file of a kind that can be read.
    """

    def __init__(self, path: Path, column: str = "text") -> None:
        if not path.exists():
            raise UserError(
                f"`corpus={str(path)!r}` does not exist (looked for {path.absolute()})."
            )
        self.path, self.column = path, column
        self.root = path if path.is_dir() else path.parent
        self.name = str(path.resolve())
        self.notes: list[str] = []
        if path.is_file() and extension(path) not in (*PROSE, *RECORD_READERS):
            raise UserError(f"`corpus={str(path)!r}` has an unknown extension. {_kinds()}")
        if not self._files():
            raise UserError(f"`corpus={str(path)!r}` holds no file to search. {_kinds()}")

    def state(self) -> dict[str, Any]:
        """File -> size and time of the last change."""
        found = {}
        for file in self._files():
            seen = file.stat()
            found[self._place(file)] = [seen.st_size, seen.st_mtime_ns]
        return found

    def documents(self) -> Iterator[Document]:
        """Of one file after the other, by name.

        Raises:
            UserError: if no text was found at all, or a file that was named cannot be read.
        """
        self.notes = []
        unread: list[str] = []
        rows: Counter[str] = Counter()
        found = 0
        for file in self._files():
            try:
                for document in self._documents_of(file, rows):
                    found += 1
                    yield document
            except UserError as error:
                if self.path.is_file():
                    raise
                unread.append(f"left out: {error}")
        self.notes += unread
        if self.path.is_dir():
            self.notes += left_out(self._files(unknown=True), "unknown kind of file")
        if rows:
            kinds = ", ".join(f"{count:,} {problem}" for problem, count in rows.most_common())
            self.notes.append(f"left out rows without a text: {kinds}")
        if not found:
            raise UserError("\n".join([f"{self.path} holds no text to search.", *self.notes]))

    def shown(self, place: str) -> str:
        """A path that leads to the file from here."""
        return str(self.root / place)

    def _files(self, unknown: bool = False) -> list[Path]:
        """The files of known kinds; or those of others."""
        if self.path.is_file():
            return [self.path]
        known = (*PROSE, *RECORD_READERS)
        return [
            file
            for file in sorted(self.path.rglob("*"))
            if file.is_file()
            and not any(part.startswith(".") for part in file.relative_to(self.path).parts)
            and (extension(file) in known) != unknown
        ]

    def _place(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()

    def _documents_of(self, file: Path, problems: Counter[str]) -> Iterator[Document]:
        try:
            if extension(file) in PROSE:
                _require_text(file)
                with open_text(file) as opened:
                    text = opened.read()
                if text.strip():
                    yield Document(text, self._place(file), line=1, by_lines=True)
                return
            for row in self._rows(file):
                record = row.value if isinstance(row.value, dict) else {self.column: row.value}
                value = record.get(self.column)
                if problem := problem_of(value):
                    problems[problem] += 1
                    continue
                title = "" if problem_of(record.get("title")) else str(record["title"])
                yield Document(str(value), self._place(file), row.number, title=title)
        except (OSError, EOFError, zlib.error) as error:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
            raise UserError(f"{file} cannot be read: {why}.") from error

    def _rows(self, file: Path) -> Iterator[Row]:
        columns = column_names(file)
        for row in RECORD_READERS[extension(file)](file, [self.column, "title"]):
            if columns is None and isinstance(row.value, dict):  # JSON lines: as the first has
                columns = list(row.value)
            if columns is not None and self.column not in columns:
                raise no_column(str(file), self.column, columns)
            yield row


def _require_text(file: Path) -> None:
    with open_text(file) as opened:  # refuses UTF-16, which is full of NULs
        start = opened.read(_LOOKED_AT)
    if "\0" in start:
        raise UserError(f"{file} holds NUL bytes: it is a binary file, not text in UTF-8.")


def _kinds() -> str:
    return (
        f"Known are text in {', '.join(PROSE)} and rows in {', '.join(RECORD_READERS)}, "
        "and each with .gz except .parquet."
    )
