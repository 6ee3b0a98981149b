"""A corpus on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from typing_extensions import override

from llm2vec_pl.data.files import Row, ShardFilter
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import fingerprint
from llm2vec_pl.use.bulk.rows import Corpus


class HubCorpus(Corpus):
    """A split of a data set of the hub, or of its local cache if the hub cannot be reached."""

    def __init__(self, path: str, subset: str | None, split: str, streaming: bool) -> None:
        self.path, self.subset, self.split, self.streaming = path, subset, split, streaming

    @cached_property
    def _part(self) -> Any:
        from datasets import load_dataset

        try:
            found = dict(load_dataset(self.path, self.subset, streaming=self.streaming))
        except Exception as error:
            raise UserError(
                f"`corpus={self.path!r}` is not a local file or folder, and it cannot be loaded "
                f"from the hub (subset {self.subset!r}): {error}"
            ) from error
        if self.split not in found and len(found) > 1:
            raise UserError(
                f"{self.path} has no split {self.split!r}; it has: {', '.join(found)}. Set `split`."
            )
        self.split = self.split if self.split in found else next(iter(found))
        return found[self.split]

    @property
    @override
    def name(self) -> str:
        return f"{self.path} ({self.split})"

    @property
    @override
    def notes(self) -> list[str]:
        return []

    @cached_property
    @override
    def columns(self) -> list[str]:  # type: ignore[override]
        return list(self._part.column_names or next(iter(self._part), {}))

    @override
    def records(self, columns: Sequence[str], picker: ShardFilter) -> Iterator[Row]:
        there = [name for name in columns if name in self.columns]
        passed = 0
        # As Arrow tables: rows that are not picked never become Python's objects.
        for table in self._part.select_columns(there).with_format("arrow").iter(batch_size=1000):
            chosen = list(picker.wanted(table.num_rows))
            for i, value in zip(chosen, table.take(chosen).to_pylist(), strict=True):
                yield Row(value, self.name, passed + i + 1, "row")
            passed += table.num_rows

    @override
    def identity(self) -> dict[str, Any]:
        # Before `self.split`, which opening may change.
        files = self._part.info.download_checksums  # the names hold the revision; None of a stream
        return {
            "hub": self.path,
            "subset": self.subset,
            "split": self.split,
            "files": files and fingerprint(files),
        }

    @override
    def count(self) -> int | None:
        rows: int | None = getattr(self._part, "num_rows", None)
        if rows is None and self._part.info.splits and self.split in self._part.info.splits:
            rows = self._part.info.splits[self.split].num_examples
        return rows or None
