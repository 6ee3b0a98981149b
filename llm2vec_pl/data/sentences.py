"""Sentences for SimCSE, in which a sentence is its own positive."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from llm2vec_pl.data.contrastive_data import ContrastiveData
from llm2vec_pl.data.examples import ArrowExamples, Candidates, Task, write_candidates
from llm2vec_pl.data.files import (
    SENTENCES_FORMAT,
    SPLITS,
    GoodTexts,
    HubDataset,
    OnBadRow,
    Split,
    TextSource,
    open_source,
    sentences_of,
    text_id,
    validation_mask,
)
from llm2vec_pl.data.python_docs import PythonDocs
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import cached_folder

if TYPE_CHECKING:
    from llm2vec_pl.data.retrieval_task import RetrievalTask

WIKI1M = ("princeton-nlp/datasets-for-simcse", "wiki1m_for_simcse.txt")
_FORMAT = 1  # of what is cached
_WITHOUT_HELD_OUT = 2  # raise it when `PythonDocsSentences` leaves out different ones


class Sentences(ContrastiveData):
    """Sentences as queries and as their own positives; the encoder's dropout makes two views.

    A subclass defines the sentences (`sentences`) and what they depend on (`source`). A repeated
    sentence is left out and counted: it would be its own negative.

    Args:
        task_name: the name of the one task.
        batch_size: sentences per batch and device.
        num_workers: processes that read and tokenise batches.
        seed: seed of the order, which is a function of seed and epoch.
        max_tokens: tokens per batch and device, at most.
    """

    def __init__(
        self,
        task_name: str,
        batch_size: int,
        num_workers: int,
        seed: int,
        max_tokens: int | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, max_tokens)
        self.task_name = task_name
        self._notes: list[str] = []

    @property
    def splits(self) -> set[str]:
        """The splits that have sentences of their own."""
        return set(SPLITS)

    def sentences(self, split: Split) -> Iterator[str]:
        """The sentences of a split, in a fixed order, read again at each call."""
        raise NotImplementedError

    def source(self) -> dict[str, Any]:
        """Everything that the sentences depend on, as JSON: part of the cache's fingerprint."""
        raise NotImplementedError

    def source_notes(self) -> list[str]:
        """What is left out before any row is read: lines to print."""
        return []

    def note(self, line: str) -> None:
        """Keeps a line about the sentences just read, to print whenever they are used."""
        self._notes.append(line)

    @override
    def read_tasks(self) -> list[Task]:
        folder, notes = self._cached("train")
        notes = [*self.source_notes(), *notes]
        if "validation" in self.splits:
            validation = ArrowExamples(self._cached("validation")[0])
            ids = [
                np.load(part.folder / "query_ids.npy")
                for part in (ArrowExamples(folder), validation)
            ]
            same = np.isin(*ids)
            train = ArrowExamples(folder, np.flatnonzero(~same))
            if same.any():
                notes.append(
                    f"{same.sum():,} sentences left out: they are validation sentences too"
                )
        else:
            held_out = validation_mask(np.load(folder / "query_ids.npy"))
            train = ArrowExamples(folder, np.flatnonzero(~held_out))
            validation = ArrowExamples(folder, np.flatnonzero(held_out))
        return [Task(self.task_name, train, validation, notes=notes)]

    def _cached(self, split: Split) -> tuple[Path, list[str]]:
        recipe = {"format": _FORMAT, "source": self.source(), "split": split}

        def write(folder: Path) -> None:
            rank_zero_info(f"{type(self).__name__}: reading {split} sentences, once")
            self._notes.clear()
            write_candidates((Candidates(text, [], []) for text in self._distinct(split)), folder)
            (folder / "notes.json").write_text(json.dumps(self._notes))

        folder = cached_folder(f"sentences-{type(self).__name__}", recipe, write)
        return folder, json.loads((folder / "notes.json").read_text())

    def _distinct(self, split: Split) -> Iterator[str]:
        seen: set[int] = set()
        read = 0
        for sentence in self.sentences(split):
            read += 1
            identity = text_id(sentence)
            if identity not in seen:
                seen.add(identity)
                yield sentence
        if read > len(seen):
            self.note(f"{read - len(seen):,} of {read:,} sentences left out as repeated")


class WikipediaSentences(Sentences):
    """One sentence per line: the million that SimCSE was trained on, or any others.

    Without a validation split, about 1 % of the sentences is held out (at least 100 if there are
    1,000 or more), chosen by a hash of the sentence.

    Args:
        path: a txt file with one sentence per line, a jsonl, csv, tsv or parquet file, a folder of
            such files or a hub data set; SimCSE's Wikipedia sentences by default.
        subset: the hub data set's configuration.
        column: the column with the sentence; not used for txt files.
        max_rows: rows to read of each split; all by default.
        batch_size: sentences per batch and device.
        max_tokens: tokens per batch and device; a sentence counts twice, as query and positive. A
            batch then has at most `batch_size` sentences. Padding is not counted. Null: no limit.
        num_workers: processes that read and tokenise batches.
        on_bad_row: what to do with a row that is null, empty, not a string or cannot be read.
        seed: seed of the order, which is a function of seed and epoch.
    """

    def __init__(
        self,
        path: str | None = None,
        subset: str | None = None,
        column: str = "text",
        max_rows: int | None = None,
        batch_size: int = 32,
        max_tokens: int | None = None,
        num_workers: int = 0,
        on_bad_row: OnBadRow = "error",
        seed: int = 0,
    ) -> None:
        super().__init__("wikipedia_sentences", batch_size, num_workers, seed, max_tokens)
        if max_rows is not None and max_rows < 1:
            raise UserError(f"`max_rows` expects at least 1, but got {max_rows}.")
        self.column = column
        self.max_rows = max_rows
        self.on_bad_row: OnBadRow = on_bad_row
        self._source: TextSource
        if path is None:
            hub, file = WIKI1M
            self._source = HubDataset(hub, None, column, streaming=False, data_files=file)
        else:
            self._source = open_source(path, subset, column, streaming=False)

    @property
    @override
    def splits(self) -> set[str]:
        return self._source.splits

    @override
    def source_notes(self) -> list[str]:
        return self._source.notes

    @override
    def sentences(self, split: Split) -> Iterator[str]:
        rows = GoodTexts(islice(self._source.rows(split), self.max_rows), self.on_bad_row)
        for sentence in rows:
            yield sentence.strip()
        if rows.skipped:
            self.note(rows.summary)

    @override
    def source(self) -> dict[str, Any]:
        return {
            "rows": self._source.identity(),
            "column": self.column,
            "max_rows": self.max_rows,
            "on_bad_row": self.on_bad_row,
        }


class PythonDocsSentences(Sentences):
    """Sentences of the docstrings of `PythonDocs`; those of its held-out names are validation.

    A training sentence that is also a validation sentence, apart from white space and capitals, is
    left out and counted: docstrings often repeat sentences of others.

    Args:
        min_length: the fewest characters in a sentence.
        max_length: the most characters in a sentence.
        batch_size: sentences per batch and device.
        max_tokens: tokens per batch and device; a sentence counts twice, as query and positive. A
            batch then has at most `batch_size` sentences. Padding is not counted. Null: no limit.
        num_workers: processes that read and tokenise batches.
        seed: seed of the order, which is a function of seed and epoch.
    """

    def __init__(
        self,
        min_length: int = 20,
        max_length: int = 300,
        batch_size: int = 32,
        max_tokens: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__("python_docs_sentences", batch_size, num_workers, seed, max_tokens)
        if not 1 <= min_length <= max_length:
            raise UserError(
                f"`min_length` and `data.max_length` expect 1 <= min <= max, "
                f"but got {min_length} and {max_length}."
            )
        self.min_length = min_length
        self.max_length = max_length
        self.docs = PythonDocs()

    @override
    def sentences(self, split: Split) -> Iterator[str]:
        if split == "validation":
            yield from self._all(split)
            return
        held_out = {text_id(sentence.casefold()) for sentence in self._all("validation")}
        left_out = 0
        for sentence in self._all(split):
            if text_id(sentence.casefold()) in held_out:
                left_out += 1
            else:
                yield sentence
        if left_out:
            self.note(f"{left_out:,} sentences left out: they are validation sentences too")

    def _all(self, split: Split) -> Iterator[str]:
        for docstring in self.docs.docstrings(split):
            for sentence in sentences_of(docstring.text):
                if self.min_length <= len(sentence) <= self.max_length:
                    yield sentence

    @override
    def source(self) -> dict[str, Any]:
        lengths = [self.min_length, self.max_length]
        formats = [SENTENCES_FORMAT, _WITHOUT_HELD_OUT]
        return {**self.docs.source(), "sentences": formats, "lengths": lengths}

    def retrieval(self, num_queries: int = 800) -> RetrievalTask:
        """The held-out summaries as queries, each with the one text below it in its docstring."""
        return self.docs.retrieval(num_queries)
