"""Queries with positives and hard negatives: the public E5 data, or any in its layout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from llm2vec_pl.data.contrastive_data import ContrastiveData
from llm2vec_pl.data.examples import (
    ArrowExamples,
    Columns,
    GoodCandidates,
    Instruction,
    Task,
    TaskSource,
    open_tasks,
    read_instructions,
    unknown_files,
    write_candidates,
)
from llm2vec_pl.data.files import OnBadRow, Split, held_out_rows
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import cached_folder

_FORMAT = 2  # of what is cached


class E5(ContrastiveData):
    """Queries with positives and, optionally, hard negatives, in one or several tasks.

    Reads a folder with one file per task, like the public echo-embeddings release of the E5 data, a
    single file, or a data set of the hub. A positive or a negative is a string or a list of
    strings; from a list, each epoch draws different ones. Rows are kept on disk and mapped into
    memory.

    Files with the word train, valid (validation, val, dev) or test in their names are splits of
    one task; test is not used. Without a validation split, about 1 % of the queries is held out
    (at least 100 if there are 1,000 or more), chosen by a hash of the query; rows that share a
    query or a positive stay on one side. If a folder has `NAME_split1` and so on, `NAME` is taken
    to hold the same rows and is left out.

    Args:
        path: a folder, a jsonl, csv, tsv or parquet file, or a hub data set; required.
        subset: the hub data set's configuration.
        tasks: names of the tasks to use; all by default.
        weights: the share of a task's rows that an epoch uses, a different share each time; above
            1 repeats some, 0 leaves the task out, and tasks not named have 1. "paper" means the
            paper's rates, for data that was not sampled with them already; the public release was.
        instructions: a YAML file of task: instruction, in addition to the paper's table.
        query_column: the column with the query.
        positive_column: the column with the text, or list of texts, that belongs to the query.
        negative_column: the column with texts that do not belong to it; rows may have none.
        max_negatives: hard negatives per query; from a row with more, each epoch draws some.
        max_rows: rows to read of each task and split; all by default.
        batch_size: examples per batch and device.
        max_tokens: tokens per batch and device; a batch then has at most `batch_size` examples.
            Padding is not counted. Null: no limit.
        num_workers: processes that read and tokenise batches.
        on_bad_row: what to do with a row without a query or positive, or one that cannot be read.
        seed: seed of the order and of all draws; both are functions of seed and epoch.
    """

    def __init__(
        self,
        path: str | None = None,
        subset: str | None = None,
        tasks: list[str] | None = None,
        weights: dict[str, float] | Literal["paper"] | None = None,
        instructions: str | None = None,
        query_column: str = "query",
        positive_column: str = "positive",
        negative_column: str = "negative",
        max_negatives: int = 1,
        max_rows: int | None = None,
        batch_size: int = 32,
        max_tokens: int | None = None,
        num_workers: int = 0,
        on_bad_row: OnBadRow = "error",
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, max_tokens)
        if path is None:
            raise UserError(
                "`path` is missing: E5 expects a folder with one jsonl file per task, such as the "
                "echo-embeddings release of the public E5 data, a file, or a data set of the hub. "
                "PythonDocsPairs needs no path."
            )
        if max_negatives < 0:
            raise UserError(f"`max_negatives` expects at least 0, but got {max_negatives}.")
        if max_rows is not None and max_rows < 1:
            raise UserError(f"`max_rows` expects at least 1, but got {max_rows}.")
        self.columns = Columns(query_column, positive_column, negative_column)
        self.max_negatives = max_negatives
        self.max_rows = max_rows
        self.on_bad_row = on_bad_row
        self.instructions = read_instructions(instructions)
        found = open_tasks(path, subset)
        self.sources = _named(found, tasks)
        self._unknown = unknown_files(path)
        self.left_out = [source for source in found if source.left_out and tasks is None]
        self.weights = self._weights(weights)

    @override
    def read_tasks(self) -> list[Task]:
        return [self._task(source) for source in self.sources]

    @override
    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        for line in self._unknown:
            rank_zero_info(f"E5: {line}")
        for source in self.left_out:
            rank_zero_info(f"E5: {source.name}: left out, since {source.left_out}")

    def _task(self, source: TaskSource) -> Task:
        instruction = self.instructions.get(source.name)
        notes = [] if instruction else ["no instruction; give one in `instructions`"]
        train, read_notes = self._examples(source, "train")
        notes += source.notes
        if "validation" in source.splits:
            validation, more_notes = self._examples(source, "validation")
            read_notes += [f"validation: {note}" for note in more_notes]
            train, leak_notes = self._without(train, validation, source)
            read_notes += leak_notes
        else:
            held_out, shared = held_out_rows(
                np.load(train.folder / "query_ids.npy"), np.load(train.folder / "positives.npy")
            )
            validation = self._open(train.folder, np.flatnonzero(held_out))
            train = self._open(train.folder, np.flatnonzero(~held_out))
            if shared:
                read_notes.append(
                    f"{shared:,} validation rows share a text with a training row: too many rows "
                    "share texts to keep them apart"
                )
        return Task(
            source.name,
            train,
            validation,
            instruction or Instruction(),
            self.weights.get(source.name, 1.0),
            [*notes, *read_notes],
        )

    def _examples(self, source: TaskSource, split: Split) -> tuple[ArrowExamples, list[str]]:
        recipe = {
            "format": _FORMAT,
            "source": source.identity(split),
            "columns": self.columns,
            "max_rows": self.max_rows,
            "on_bad_row": self.on_bad_row,
        }

        def write(folder: Path) -> None:
            rank_zero_info(f"{type(self).__name__}: reading {source.name}, once")
            rows = source.rows(split, self.columns, self.max_rows)
            found = GoodCandidates(rows, self.columns, self.on_bad_row, source.name)
            write_candidates(found, folder)
            if not found.kept:
                why = f": {found.notes[0]}" if found.skipped else ""
                raise UserError(
                    f"{source.place(split)} holds no examples{why}. "
                    "Remove it, or name the tasks to use in `tasks`."
                )
            (folder / "notes.json").write_text(json.dumps(found.notes))

        folder = cached_folder("examples", recipe, write)
        return self._open(folder), json.loads((folder / "notes.json").read_text())

    def _without(
        self, train: ArrowExamples, validation: ArrowExamples, source: TaskSource
    ) -> tuple[ArrowExamples, list[str]]:
        """The training rows without those that are validation rows too, if the data has both."""
        own, other = (_ids(examples.folder) for examples in (train, validation))
        pairs = {pair for pairs in other for pair in pairs}
        same = np.array([not pairs.isdisjoint(row) for row in own])
        if not same.any():
            return train, []
        if same.all():
            raise UserError(
                f"{source.place('train')}: each of its rows is also in "
                f"{source.place('validation')}. Give other rows to validate on."
            )
        note = f"{same.sum():,} training rows left out: they are validation rows too"
        return self._open(train.folder, np.flatnonzero(~same)), [note]

    def _open(self, folder: Path, rows: np.ndarray | None = None) -> ArrowExamples:
        return ArrowExamples(folder, rows, self.max_negatives, self.seed)

    def _weights(self, weights: dict[str, float] | Literal["paper"] | None) -> dict[str, float]:
        names = [source.name for source in self.sources]
        if weights == "paper":
            return {n: self.instructions[n].paper_rate for n in names if n in self.instructions}
        for name, weight in (weights or {}).items():
            if name not in names:
                raise UserError(f"`weights`: {_no_task(name, names)}")
            if not 0 <= weight < float("inf"):
                raise UserError(f"`weights`: {name} expects at least 0, but got {weight}.")
        return dict(weights or {})


def _ids(folder: Path) -> list[set[tuple[int, int]]]:
    """The (query, positive) pairs of each row, as the ids of their texts."""
    queries = np.load(folder / "query_ids.npy").tolist()
    pairs: list[set[tuple[int, int]]] = [set() for _ in queries]
    for row, positive in np.load(folder / "positives.npy").tolist():
        pairs[row].add((queries[row], positive))
    return pairs


def _named(sources: list[TaskSource], names: Sequence[str] | None) -> list[TaskSource]:
    if names is None:
        used = [source for source in sources if not source.left_out]
        if not used:
            raise UserError(
                "`path` holds no task to train on: "
                + "; ".join(f"{source.name}: {source.left_out}" for source in sources)
            )
        return used
    known = {source.name: source for source in sources}
    for name in names:
        if name not in known:
            raise UserError(f"`tasks`: {_no_task(name, known)}")
    if not names:
        raise UserError("`tasks` expects at least one task, but got none.")
    return [known[name] for name in dict.fromkeys(names)]


def _no_task(name: str, names: Iterable[str]) -> str:
    return f"there is no task {name!r}; there are: {', '.join(names)}."
