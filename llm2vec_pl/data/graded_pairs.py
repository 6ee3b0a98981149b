"""Pairs of texts with scores, such as the training split of STS-B."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from llm2vec_pl.data.contrastive_data import ContrastiveData
from llm2vec_pl.data.examples import (
    Example,
    Instruction,
    ListedExamples,
    Task,
    TaskSource,
    open_tasks,
    unknown_files,
)
from llm2vec_pl.data.files import (
    PairColumns,
    ScoredPair,
    Split,
    held_out_rows,
    no_column,
    scored_pair,
    text_id,
)
from llm2vec_pl.errors import UserError


class GradedPairs(ContrastiveData):
    """Pairs of texts, each with a score: the more similar people find them, the higher.

    Only the order of the scores counts, within a task, so that they may be on any scale. The pairs
    are kept in memory.

    Files with the word train, valid (validation, val, dev) or test in their names are splits of
    one task; test is not used. Without a validation split, about 1 % of the pairs is held out (at
    least 100 if there are 1,000 or more); pairs that share a text stay on one side.

    Args:
        path: a jsonl, csv, tsv or parquet file, a folder of them, or a hub data set; required.
        subset: the hub data set's configuration.
        first_column: the column with the first text.
        second_column: the column with the second text.
        score_column: the column with the score, a number.
        instruction: written directly before each text, such as "Retrieve similar text: ".
        batch_size: pairs per batch and device; a pair is compared with all others of its batch.
        max_tokens: tokens per batch and device; a batch then has at most `batch_size` pairs.
            Padding is not counted. Null: no limit.
        num_workers: processes that read and tokenise batches.
        seed: seed of the order, which is a function of seed and epoch.
    """

    def __init__(
        self,
        path: str | None = None,
        subset: str | None = None,
        first_column: str = "sentence1",
        second_column: str = "sentence2",
        score_column: str = "score",
        instruction: str = "",
        batch_size: int = 32,
        max_tokens: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, max_tokens)
        if path is None:
            raise UserError(
                "`path` is missing: GradedPairs expects a file or a folder of pairs with scores, "
                "such as `stsb_train.jsonl`, or a data set of the hub, such as "
                "`sentence-transformers/stsb`."
            )
        self.columns = PairColumns(first_column, second_column, score_column)
        self.instruction = Instruction((instruction,), symmetric=True)
        found = open_tasks(path, subset)
        self.sources = [source for source in found if not source.left_out]
        left_out = [f"{source.name}: {source.left_out}" for source in found if source.left_out]
        if not self.sources:
            raise UserError(f"`path` holds nothing to train on: {'; '.join(left_out)}.")
        self.left_out = [f"left out {line}" for line in left_out] + unknown_files(path)

    @override
    def read_tasks(self) -> list[Task]:
        return [self._task(source) for source in self.sources]

    @override
    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        for line in self.left_out:
            rank_zero_info(f"GradedPairs: {line}")

    def _task(self, source: TaskSource) -> Task:
        train, notes = self._pairs(source, "train"), list(source.notes)
        if "validation" in source.splits:
            validation = self._pairs(source, "validation")
            seen = {frozenset(pair[:2]) for pair in validation}
            kept = [pair for pair in train if frozenset(pair[:2]) not in seen]
            if len(kept) < len(train):
                notes.append(
                    f"{len(train) - len(kept):,} training pairs left out: they are validation "
                    "pairs too"
                )
            train = kept
        else:
            held_out = _held_out(train)
            validation = [pair for pair, out in zip(train, held_out, strict=True) if out]
            train = [pair for pair, out in zip(train, held_out, strict=True) if not out]
        if len({pair.score for pair in train}) < 2:
            raise UserError(
                f"{source.place('train')}: expected pairs with at least two different scores, to "
                f"have an order, but got {len(train)} to train on, all with the same score."
            )
        return Task(
            source.name, _examples(train), _examples(validation), self.instruction, notes=notes
        )

    def _pairs(self, source: TaskSource, split: Split) -> list[ScoredPair]:
        pairs: list[ScoredPair] = []
        for row in source.rows(split, self.columns, None):
            if not pairs and isinstance(row.value, dict):
                for role, column in self.columns._asdict().items():
                    if column not in row.value:
                        raise no_column(row.place, column, row.value, f"{role}_column")
            pairs.append(scored_pair(row, self.columns))
        return pairs


def _held_out(pairs: Sequence[ScoredPair]) -> list[bool]:
    """Which pairs are kept for validation."""
    first = np.array([text_id(pair.first) for pair in pairs], np.int64)
    second = [(row, text_id(pair.second)) for row, pair in enumerate(pairs)]
    mask, _ = held_out_rows(first, np.array(second, np.int64).reshape(-1, 2))
    held: list[bool] = mask.tolist()
    return held


def _examples(pairs: Sequence[ScoredPair]) -> ListedExamples:
    return ListedExamples([Example(first, second, (), score) for first, second, score in pairs])
