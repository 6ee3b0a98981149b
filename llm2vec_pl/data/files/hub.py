"""A data set of the Hugging Face hub: its splits, whatever their names, and their rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from typing import Any, cast

from typing_extensions import override

from llm2vec_pl.data.files.records import Row, no_column
from llm2vec_pl.data.files.shards import Shard
from llm2vec_pl.data.files.text_source import READ_SPLITS, TextSource, split_of
from llm2vec_pl.errors import UserError

WIKITEXT = ("Salesforce/wikitext", "wikitext-103-raw-v1")


class HubDataset(TextSource):
    """A data set of the Hugging Face hub, or of its local cache if the hub cannot be reached.

    `data_files` names one of its files, to use only that one.
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
                f"`path={self.path!r}` is not a local file or folder, and it cannot be loaded from "
                f"the hub (subset {self.subset!r}): {error}"
            ) from error

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """Split -> the hub's names for it: `train_sft` and `train_gen` both belong to train."""
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
    def rows(self, split: str, shard: Shard | None = None) -> Iterator[Row]:
        columns = self.columns(split)
        if self.column not in columns:
            raise no_column(self.path, self.column, columns)
        if self.path == WIKITEXT[0]:  # a third of its lines are empty
            texts = (row for row in self._texts(split) if row.value)
            yield from islice(texts, shard.first, None, shard.readers) if shard else texts
        else:
            yield from self._texts(split, shard)

    def _texts(self, split: str, shard: Shard | None = None) -> Iterator[Row]:
        for row in self.records(split, [self.column], shard):
            yield row._replace(value=cast(dict[str, Any], row.value)[self.column])

    def columns(self, split: str) -> list[str]:
        """The columns that all parts of a split have."""
        parts = [self._columns_of(name) for name in self._names[split]]
        return [column for column in parts[0] if all(column in columns for columns in parts)]

    def _columns_of(self, name: str) -> list[str]:
        """The columns of a part; if a stream does not know them, those of its first row."""
        if name not in self._columns:
            part = self._found[name]
            self._columns[name] = list(part.column_names or next(iter(part), {}))
        return self._columns[name]

    def records(
        self, split: str, columns: Iterable[str], shard: Shard | None = None
    ) -> Iterator[Row]:
        """The rows of a split, or of a shard of a streamed one, with the columns that exist."""
        there = self.columns(split)
        wanted = [name for name in columns if name in there]
        parts = {name: self._found[name] for name in self._names[split]}
        first, step = 0, 1
        deals = shard and shard.stop is None
        if shard and deals and all(p.num_shards % shard.readers == 0 for p in parts.values()):
            parts = {n: p.shard(shard.readers, shard.reader) for n, p in parts.items()}
            first = shard.start  # the files are dealt out
        elif shard:
            first, step = shard.first, shard.readers
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
