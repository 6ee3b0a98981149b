"""Summaries of Python's documentation, the texts below them, and similar texts as negatives."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from heapq import nlargest
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from llm2vec_pl.data.contrastive_data import ContrastiveData
from llm2vec_pl.data.examples import Example, Instruction, Task, digest
from llm2vec_pl.data.python_docs import DocPair, PythonDocs
from llm2vec_pl.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llm2vec_pl.data.examples import TokenCounter
    from llm2vec_pl.data.retrieval_task import RetrievalTask


class PythonDocsPairs(ContrastiveData):
    """(summary, text below it) of the docstrings of `PythonDocs`, with hard negatives.

    The negatives are texts of other names in the same class or module, or in the nearest package
    around it that has enough; each epoch draws new ones. The names that `PythonDocs` holds out are
    the validation split, so that its retrieval test stays unseen.

    Args:
        max_negatives: hard negatives per query.
        instruction: written directly before each query, such as "Retrieve the documentation: ".
        batch_size: examples per batch and device.
        max_tokens: tokens per batch and device; a batch then has at most `batch_size` examples.
            Padding is not counted. Null: no limit.
        num_workers: processes that read and tokenise batches.
        seed: seed of the order and of the negatives; both are functions of seed and epoch.
    """

    def __init__(
        self,
        max_negatives: int = 1,
        instruction: str = "",
        batch_size: int = 32,
        max_tokens: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers, seed, max_tokens)
        if max_negatives < 0:
            raise UserError(f"`max_negatives` expects at least 0, but got {max_negatives}.")
        self.max_negatives = max_negatives
        self.instruction = instruction
        self.docs = PythonDocs()

    @override
    def read_tasks(self) -> list[Task]:
        train, validation = (
            PairExamples(self.docs.pairs(split), self.max_negatives, self.seed)
            for split in ("train", "validation")
        )
        return [Task("python_docs", train, validation, Instruction((self.instruction,)))]

    def retrieval(self, num_queries: int = 800) -> RetrievalTask:
        """The held-out summaries as queries, each with the one text below it in its docstring."""
        return self.docs.retrieval(num_queries)


class PairExamples:
    """Pairs, each with negatives drawn from its neighbours.

    Args:
        pairs: pairs sorted by name.
        max_negatives: negatives per example; fewer if there are no more.
        seed: seed of the draw, which is a function of seed, epoch and name.
    """

    def __init__(self, pairs: Sequence[DocPair], max_negatives: int, seed: int) -> None:
        self.pairs = pairs
        self.max_negatives = max_negatives
        self.seed = seed
        self.lengths = np.array([len(pair.query) + len(pair.positive) for pair in pairs], np.int64)
        self._names = [pair.name for pair in pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def example(self, row: int, epoch: int) -> Example:
        """One example, with the negatives of an epoch."""
        name, query, positive = self.pairs[row]
        near = self.neighbours(row)
        draw = random.Random(f"{self.seed} {epoch} {name}")
        # One more than needed, since the row itself may be among them.
        drawn = draw.sample(near, min(len(near), self.max_negatives + 1))
        negatives = [self.pairs[i].positive for i in drawn if i != row]
        return Example(query, positive, negatives[: self.max_negatives])

    def tokens(self, counter: TokenCounter) -> NDArray[np.int64]:
        """The most tokens that each can have, with the longest negatives that it may draw."""

        def count() -> NDArray[np.int64]:
            queries = counter.queries([pair.query for pair in self.pairs])
            positives = counter.texts([pair.positive for pair in self.pairs])
            negatives = self._longest_negatives(positives.tolist())
            return queries + positives + np.array(negatives, np.int64)

        recipe = {"pairs": digest(self.pairs), "max_negatives": self.max_negatives}
        return counter.kept(recipe, count)

    def _longest_negatives(self, tokens: list[int]) -> list[int]:
        @cache
        def longest(near: range) -> list[int]:  # one more than needed
            return nlargest(self.max_negatives + 1, near, key=tokens.__getitem__)

        most = []
        for row in range(len(self)):
            others = [other for other in longest(self.neighbours(row)) if other != row]
            most.append(sum(tokens[other] for other in others[: self.max_negatives]))
        return most

    def neighbours(self, row: int) -> range:
        """The rows of the smallest class, module or package around one that has enough others."""
        prefix = self._names[row]
        while prefix := prefix.rpartition(".")[0]:
            # "/" is the character after ".", so these are the names that begin with the prefix.
            first, end = (bisect_left(self._names, prefix + mark) for mark in "./")
            if end - first > self.max_negatives:
                return range(first, end)
        return range(len(self._names))
