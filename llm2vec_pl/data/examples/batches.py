"""Batches of one task each across all ranks, with texts of similar length; they resume exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset
from typing_extensions import override

from llm2vec_pl.data.files import text_id
from llm2vec_pl.data.resuming import ResumableBatchSampler

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]

BATCHES_PER_WINDOW = 50  # examples are sorted by length within windows of this many batches


class TaskBatch(NamedTuple):
    """One rank's share of a global batch: which rows of which task."""

    task: int
    rows: list[int]
    epoch: int
    number: int  # of the global batch in its epoch


class TaskRows(NamedTuple):
    """What a sampler needs to know about a task."""

    name: str
    lengths: Rows  # characters of each example, or its tokens
    weight: float = 1.0


def rows_of_epoch(task: TaskRows, seed: int, epoch: int) -> Rows:
    """The rows that an epoch uses, in random order.

    The epochs walk through one shuffled pass after another: with a weight of 0.1, ten epochs use
    each row once; with a weight of 2, each epoch uses each row twice.
    """
    size = len(task.lengths)
    count = _rows_per_epoch(task)
    if not count:
        return np.empty(0, np.int64)
    passes, skipped = passes_of_epoch(size, count, epoch)
    rows = [pass_generator(task, seed, number).permutation(size) for number in passes]
    return np.concatenate(rows)[skipped : skipped + count]


def passes_of_epoch(size: int, count: int, epoch: int) -> tuple[range, int]:
    """The passes that an epoch walks through, and how much of the first earlier epochs used.

    Args:
        size: items in a pass.
        count: items that an epoch uses.
        epoch: number of the epoch.
    """
    first, skipped = divmod(epoch * count, size)
    return range(first, (epoch * count + count - 1) // size + 1), skipped


def pass_generator(task: TaskRows, seed: int, number: int) -> np.random.Generator:
    """The generator that draws the order of one pass through a task."""
    return np.random.default_rng([seed, text_id(task.name), number])


def per_epoch(size: int, weight: float) -> int:
    """How many of `size` items an epoch uses: at least one, unless there are none to use."""
    return max(1, round(size * weight)) if size and weight > 0 else 0


def _rows_per_epoch(task: TaskRows) -> int:
    return per_epoch(len(task.lengths), task.weight)


class TaskBatchSampler(ResumableBatchSampler):
    """Draws batches of one task each. Positions are numbers of global batches.

    Each rank takes every n-th row of a global batch: all ranks have rows of the same task and of
    similar lengths, the same number of batches, and numbers of rows that differ by at most one. The
    rest of a task makes a smaller batch if it has at least two rows and one for each rank;
    otherwise it is left out of the epoch, with other rows each time.

    Args:
        dataset: the data set that reads the batches.
        tasks: the tasks, in the data set's order.
        batch_size: examples per batch and rank.
        rank: rank of this process.
        world_size: number of processes that train.
        seed: seed of the order.
        shuffle: draw a new order each epoch, by the tasks' weights; otherwise each row is used
            once, always in the same order.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        tasks: Sequence[TaskRows],
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)
        self.tasks = tasks if shuffle else [task._replace(weight=1.0) for task in tasks]
        self.global_batch_size = batch_size * world_size
        self.least = min(max(2, world_size), self.global_batch_size)

    @property
    def left_over(self) -> dict[str, int]:
        """The number of rows of each task that an epoch leaves out, if any."""
        rows = {task.name: _rows_per_epoch(task) % self.global_batch_size for task in self.tasks}
        return {name: count for name, count in rows.items() if 0 < count < self.least}

    def __iter__(self) -> Iterator[TaskBatch]:
        start, self.start = self.start, 0
        batches = [
            (number, rows)
            for number in range(len(self.tasks))
            for rows in self._global_batches(number, *self._seed_and_epoch)
        ]
        order = self._order(len(batches)).tolist()
        for stop in self.batch_ends(start):
            task, rows = batches[order[stop - 1]]
            mine = rows[self.rank :: self.num_replicas].tolist()
            yield TaskBatch(task, mine, self._seed_and_epoch[1], stop - 1)

    @override
    def batch_ends(self, start: int = 0) -> Sequence[int]:
        none = np.empty(0, np.int64)
        sizes = np.concatenate([none, *(self._sizes(task) for task in self.tasks)])
        enough = np.flatnonzero(sizes[self._order(len(sizes))] >= self.least)
        after: list[int] = (enough[enough >= start] + 1).tolist()
        return after

    @override
    def fixed_in_epoch(self) -> dict[str, int]:
        count = sum(len(self._sizes(task)) for task in self.tasks)
        return {
            "global_batch_size": self.global_batch_size,
            "global_batches": count,
            "max_tokens": 0,  # none
        }

    @property
    def _seed_and_epoch(self) -> tuple[int, int]:
        return (self.seed, self.epoch) if self.shuffle else (0, 0)

    def _order(self, count: int) -> Rows:
        return np.random.default_rng(self._seed_and_epoch).permutation(count)

    def _sizes(self, task: TaskRows) -> Rows:
        """The sizes of all global batches, for any number of ranks: the order depends on them."""
        full, rest = divmod(_rows_per_epoch(task), self.global_batch_size)
        return np.array([self.global_batch_size] * full + [rest] * (rest >= 2), np.int64)

    def _global_batches(self, number: int, seed: int, epoch: int) -> Iterator[Rows]:
        """The rows of each batch of a task in an epoch, across all ranks."""
        task = self.tasks[number]
        rows = rows_of_epoch(task, seed, epoch)
        size = self.global_batch_size
        rows = rows[: self._sizes(task).sum()]
        for window in range(0, len(rows), BATCHES_PER_WINDOW * size):
            some = rows[window : window + BATCHES_PER_WINDOW * size]
            some = some[np.argsort(task.lengths[some], kind="stable")]
            yield from (some[i : i + size] for i in range(0, len(some), size))
