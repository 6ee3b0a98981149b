"""Where texts come from: local files or a data set of the Hugging Face hub, split by name."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast

from typing_extensions import override

from llm2vec_pl.data.rows import READERS, Row, extension, no_column
from llm2vec_pl.data.share import Picker, Share
from llm2vec_pl.errors import UserError

WIKITEXT = ("Salesforce/wikitext", "wikitext-103-raw-v1")

READ_SPLITS = ("train", "validation")
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


class TextSource(Protocol):
    """Rows of text in splits."""

    @property
    def notes(self) -> list[str]:
        """What is left out and what is read otherwise than its name says: lines to print."""

    @property
    def splits(self) -> set[str]:
        """The splits that have rows of their own."""

    def rows(self, split: str, share: Share | None = None) -> Iterator[Row]:
        """The rows of a split, or of a share of it, in a fixed order."""

    def identity(self) -> dict[str, Any]:
        """What changes when the rows do."""


def open_source(path: str | None, subset: str | None, column: str, streaming: bool) -> TextSource:
    """Local files where the path is there, else a data set of the hub.

    Raises:
        UserError: there is no such file, or none that can be read.
    """
    if path is None:
        return HubDataset(*WIKITEXT, column, streaming)
    local = local_path(path)
    if local is not None:
        return LocalFiles(local, column)
    return HubDataset(path, subset, column, streaming)


def local_path(path: str) -> Path | None:
    """The file or folder that is there; None where the name may be one of the hub.

    Raises:
        UserError: there is none, and the name cannot be one of the hub.
    """
    local = Path(path).expanduser()
    if path and local.exists():
        return local
    looks_local = path[:1] in "/.~" or path.count("/") > 1 or extension(local) in READERS
    if looks_local or not path:
        raise UserError(f"--data.path {path!r} does not exist (looked for {local.absolute()}).")
    return None


def split_of(name: str) -> str | None:
    """The split that a file's or folder's name says: a word such as train, valid, dev or test."""
    for word in re.split(r"[^a-z]+", name.lower()):
        if word in _SPLIT_WORDS:
            return _SPLIT_WORDS[word]
    return None


def is_split_word(word: str) -> bool:
    """Whether a word names a split, such as train or dev."""
    return word.lower() in _SPLIT_WORDS


def left_out(files: Sequence[Path], why: str) -> list[str]:
    """A line on files that are not read; none where there are none."""
    if not files:
        return []
    shown = ", ".join(file.name for file in files[:5])
    more = f" and {len(files) - 5:,} more" if len(files) > 5 else ""
    return [f"left out, {why}: {shown}{more}"]


class LocalFiles(TextSource):
    """One file, or the files of a folder and of the folders in it.

    In a folder, names with the word train, valid (val, dev) or test are splits. Other files are
    the training split where no file is named train, and are left out where one is.
    """

    def __init__(self, path: Path, column: str) -> None:
        self.column = column
        self.files: dict[str, list[Path]] = {}
        self._notes: list[str] = []
        if path.is_file():
            self._add(path, "train")
        else:
            self._add_folder(path)
        for split, files in self.files.items():
            kinds = sorted({extension(file) for file in files})
            if len(kinds) > 1:
                raise UserError(
                    f"--data.path {path} holds {split} files of several kinds: {', '.join(kinds)}. "
                    "Name one file, or a folder with one kind."
                )

    def _add(self, file: Path, split: str) -> None:
        if extension(file) not in READERS:
            raise UserError(
                f"--data.path {file} has an unknown extension. "
                f"Known are: {', '.join(READERS)}, and each with .gz except .parquet."
            )
        self.files.setdefault(split, []).append(file)

    def _add_folder(self, folder: Path) -> None:
        unnamed = []
        unknown = []
        for file in sorted(folder.rglob("*")):
            parts = file.relative_to(folder).parts
            hidden = any(part.startswith(".") for part in parts)
            if hidden or not file.is_file():
                continue
            if extension(file) not in READERS:
                unknown.append(file)
                continue
            named = next((s for part in reversed(parts) if (s := split_of(part))), None)
            if named:
                self._add(file, named)
            else:
                unnamed.append(file)
        if self.files.setdefault("train", unnamed) is not unnamed:
            self._notes += left_out(unnamed, "their names have no split, but others say train")
        self._notes += left_out(unknown, "of an unknown kind")
        if not self.files["train"]:
            raise UserError(
                f"--data.path {folder} holds no file to train on. "
                f"Expected a file that ends in one of: {', '.join(READERS)}."
            )

    @property
    @override
    def notes(self) -> list[str]:
        return self._notes

    @property
    @override
    def splits(self) -> set[str]:
        return set(self.files)

    @override
    def rows(self, split: str, share: Share | None = None) -> Iterator[Row]:
        picker = Picker(share) if share else None
        for file in self.files[split]:
            try:
                yield from READERS[extension(file)](file, self.column, picker)
            except (EOFError, OSError, zlib.error) as error:
                raise UserError(f"{file} cannot be read to its end: {error}") from error

    @override
    def identity(self) -> dict[str, Any]:
        return {
            split: [
                (str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns)
                for file in files
            ]
            for split, files in self.files.items()
        }


class HubDataset(TextSource):
    """A data set of the Hugging Face hub, or of its cache where the hub cannot be reached.

    `data_files` names one of its files, where it is not to be taken whole.
    """

    def __init__(
        self,
        path: str,
        subset: str | None,
        column: str,
        streaming: bool,
        data_files: str | None = None,
    ) -> None:
        self.path = path
        self.subset = subset
        self.column = column
        self.streaming = streaming
        self._columns: dict[str, list[str]] = {}
        self.options = {"data_files": data_files} if data_files else {}

    @cached_property
    def _found(self) -> dict[str, Any]:
        from datasets import load_dataset

        try:
            return dict(
                load_dataset(self.path, self.subset, streaming=self.streaming, **self.options)
            )
        except Exception as error:
            raise UserError(
                f"--data.path {self.path!r} is no local file or folder, and the hub did not give "
                f"it as a data set (subset {self.subset!r}): {error}"
            ) from error

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """Split -> the hub's names of it: `train_sft` and `train_gen` are both of train."""
        if len(self._found) == 1:
            return {"train": list(self._found)}
        names: dict[str, list[str]] = {}
        for name in self._found:
            names.setdefault(split_of(name) or name, []).append(name)
        if "train" not in names:
            raise UserError(f"{self.path} has no train split; it has: {', '.join(self._found)}.")
        return names

    @property
    @override
    def notes(self) -> list[str]:
        notes = [
            f"{split} is read from {' and '.join(names)}"
            for split, names in self._names.items()
            if split in READ_SPLITS and (len(names) > 1 or split_of(names[0]) != split)
        ]
        unread = [name for name in self._names if name not in (*READ_SPLITS, "test")]
        return notes + [f"splits left out: {', '.join(unread)}"] * bool(unread)

    @property
    @override
    def splits(self) -> set[str]:
        return set(self._names)

    @override
    def rows(self, split: str, share: Share | None = None) -> Iterator[Row]:
        columns = self.columns(split)
        if self.column not in columns:
            raise no_column(self.path, self.column, columns)
        if self.path == WIKITEXT[0]:  # a third of its lines are empty
            texts = (row for row in self._texts(split) if row.value)
            yield from islice(texts, share.first, None, share.readers) if share else texts
        else:
            yield from self._texts(split, share)

    def _texts(self, split: str, share: Share | None = None) -> Iterator[Row]:
        for row in self.records(split, [self.column], share):
            yield row._replace(value=cast(dict[str, Any], row.value)[self.column])

    def columns(self, split: str) -> list[str]:
        """The columns that all parts of a split have."""
        parts = [self._columns_of(name) for name in self._names[split]]
        return [column for column in parts[0] if all(column in columns for columns in parts)]

    def _columns_of(self, name: str) -> list[str]:
        """Those of a part; of a stream that does not know them, those of its first row."""
        if name not in self._columns:
            part = self._found[name]
            self._columns[name] = list(part.column_names or next(iter(part), {}))
        return self._columns[name]

    def records(
        self, split: str, columns: Iterable[str], share: Share | None = None
    ) -> Iterator[Row]:
        """The rows of a split, or of a share of a streamed one, with the columns there are."""
        there = self.columns(split)
        wanted = [name for name in columns if name in there]
        parts = {name: self._found[name] for name in self._names[split]}
        first, step = 0, 1
        deals = share and share.stop is None
        if share and deals and all(p.num_shards % share.readers == 0 for p in parts.values()):
            parts = {n: p.shard(share.readers, share.reader) for n, p in parts.items()}
            first = share.start  # its files, dealt out
        elif share:
            first, step = share.first, share.readers
        passed = 0  # rows of all parts
        for name, part in parts.items():
            number = 0
            if first and len(parts) == 1:
                part = part.skip(first)
                number = passed = first
            for batch in part.select_columns(wanted).iter(batch_size=1000):
                for values in zip(*(batch[column] for column in wanted), strict=True):
                    number += 1
                    passed += 1
                    if passed > first and (passed - first - 1) % step == 0:
                        value = dict(zip(wanted, values, strict=True))
                        yield Row(value, f"{self.path} ({name})", number, "row")

    @override
    def identity(self) -> dict[str, Any]:
        files = {
            # They hold the revision.
            split: [file["filename"] for name in names for file in self._found[name].cache_files]
            for split, names in self._names.items()
        }
        return {"hub": self.path, "subset": self.subset, "files": files, **self.options}
