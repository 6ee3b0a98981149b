"""Where texts come from: local files or a data set of the Hugging Face hub, split by name."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from llm2vec_pl.data.files.hub import WIKITEXT, HubDataset
from llm2vec_pl.data.files.records import cannot_be_on_the_hub
from llm2vec_pl.data.files.rows import READERS, Row, extension
from llm2vec_pl.data.files.shards import Shard, ShardFilter
from llm2vec_pl.data.files.text_source import TextSource, is_split_word, split_of
from llm2vec_pl.errors import UserError

__all__ = [
    "WIKITEXT",
    "HubDataset",
    "LocalFiles",
    "TextSource",
    "is_split_word",
    "left_out",
    "local_path",
    "open_source",
    "split_of",
]


def open_source(path: str | None, subset: str | None, column: str, streaming: bool) -> TextSource:
    """Local files if the path exists, else a data set of the hub.

    Raises:
        UserError: if there is no such file, or none that can be read.
    """
    if path is None:
        return HubDataset(*WIKITEXT, column, streaming)
    local = local_path(path)
    if local is not None:
        return LocalFiles(local, column)
    return HubDataset(path, subset, column, streaming)


def local_path(path: str) -> Path | None:
    """The local file or folder; None if there is none and the name may be one of the hub.

    Raises:
        UserError: if there is none, and the name cannot be one of the hub.
    """
    local = Path(path).expanduser()
    if path and local.exists():
        return local
    if not path or cannot_be_on_the_hub(path, READERS):
        raise UserError(f"`path={path!r}` does not exist (looked for {local.absolute()}).")
    return None


def left_out(files: Sequence[Path], why: str) -> list[str]:
    """A line on files that are not read; no line if there are none."""
    if not files:
        return []
    shown = ", ".join(file.name for file in files[:5])
    more = f" and {len(files) - 5:,} more" if len(files) > 5 else ""
    return [f"left out ({why}): {shown}{more}"]


class LocalFiles(TextSource):
    """One file, or the files of a folder and of the folders in it.

    In a folder, names with the word train, valid (val, dev) or test are splits. Other files are
    the training split if no file is named train; otherwise they are left out.
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
                    f"`path={str(path)!r}` holds {split} files of several kinds: "
                    f"{', '.join(kinds)}. Name one file, or a folder with one kind."
                )

    def _add(self, file: Path, split: str) -> None:
        if extension(file) not in READERS:
            raise UserError(
                f"`path={str(file)!r}` has an unknown extension. "
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
            self._notes += left_out(unnamed, "no split in the name, while other names say train")
        self._notes += left_out(unknown, "unknown kind of file")
        if not self.files["train"]:
            raise UserError(
                f"`path={str(folder)!r}` holds no file to train on. "
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
    def rows(self, split: str, shard: Shard | None = None) -> Iterator[Row]:
        picker = ShardFilter(shard) if shard else None
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
