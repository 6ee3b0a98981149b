"""Batches of examples: one task each across all ranks, texts of like length, exact on resuming."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from llm2vec_pl.data.examples import text_id
from llm2vec_pl.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]

BATCHES_PER_WINDOW = 50  # examples are sorted by length in windows of so many batches


class TaskBatch(NamedTuple):
    """One rank's share of a global batch: which rows of which task."""

    task: int
    rows: list[int]
    epoch: int
    number: int  # of the global batch in its epoch


class TaskRows(NamedTuple):
    """What a sampler needs to know of a task."""

    name: str
    lengths: Rows  # characters of each example
    weight: float = 1.0


def rows_of_epoch(task: TaskRows, seed: int, epoch: int) -> Rows:
    """The rows that an epoch uses, in random order.

    The epochs walk through one shuffled pass after the other: with a weight of 0.1 ten epochs use
    each row once, with a weight of 2 each epoch uses each row twice.
    """
    size = len(task.lengths)
    count = _rows_per_epoch(task)
    if not count:
        return np.empty(0, np.int64)
    first_pass, skipped = divmod(epoch * count, size)
    last_pass = (epoch * count + count - 1) // size
    passes = [
        np.random.default_rng([seed, text_id(task.name), number]).permutation(size)
        for number in range(first_pass, last_pass + 1)
    ]
    return np.concatenate(passes)[skipped : skipped + count]


def _rows_per_epoch(task: TaskRows) -> int:
    size = len(task.lengths)
    return max(1, round(size * task.weight)) if size and task.weight > 0 else 0


class TaskBatches(DistributedSampler[TaskBatch]):
    """Draws batches of one task each; a function of seed, epoch, rank and number of ranks.

    Each rank takes every n-th row of a global batch, so that all have a share of the same task and
    of like lengths, as many batches, and numbers of rows that differ by one at most. What is left
    of a task makes a smaller batch where each rank gets a row of it and there are two at least;
    otherwise it is left out of the epoch, another rest each time.

    Args:
        dataset: that reads the batches.
        tasks: in the dataset's order.
        batch_size: examples per batch and rank.
        rank: of this process.
        world_size: processes that train.
        seed: of the order.
        shuffle: draw anew each epoch, by the tasks' weights; otherwise each row is used once, in
            the same order always.
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
        # A DistributedSampler, with one process too: Lightning leaves it alone and sets its epoch.
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)
        self.tasks = tasks if shuffle else [task._replace(weight=1.0) for task in tasks]
        self.global_batch_size = batch_size * world_size
        self.least = max(2, world_size)
        self.start = 0  # the first batch of the next pass; then 0 again

    def __len__(self) -> int:
        """Batches of an epoch, the same in each."""
        return sum(self._batches_of(task) for task in self.tasks)

    @property
    def left_over(self) -> dict[str, int]:
        """Rows of each task that an epoch leaves out, where there are any."""
        rows = {task.name: _rows_per_epoch(task) % self.global_batch_size for task in self.tasks}
        return {name: count for name, count in rows.items() if 0 < count < self.least}

    def __iter__(self) -> Iterator[TaskBatch]:  # type: ignore[override]
        start, self.start = self.start, 0
        epoch, seed = (self.epoch, self.seed) if self.shuffle else (0, 0)
        batches = [
            (number, rows)
            for number, task in enumerate(self.tasks)
            for rows in self._global_batches(task, seed, epoch)
        ]
        order = np.random.default_rng([seed, epoch]).permutation(len(batches)).tolist()
        for number in range(start, len(batches)):
            task, rows = batches[order[number]]
            mine = rows[self.rank :: self.num_replicas].tolist()
            yield TaskBatch(task, mine, epoch, number)

    def _batches_of(self, task: TaskRows) -> int:
        full, rest = divmod(_rows_per_epoch(task), self.global_batch_size)
        return full + (rest >= self.least)

    def _global_batches(self, task: TaskRows, seed: int, epoch: int) -> Iterator[Rows]:
        rows = rows_of_epoch(task, seed, epoch)
        size = self.global_batch_size
        rows = rows[: self._batches_of(task) * size]
        for window in range(0, len(rows), BATCHES_PER_WINDOW * size):
            some = rows[window : window + BATCHES_PER_WINDOW * size]
            some = some[np.argsort(task.lengths[some], kind="stable")]
            yield from (some[i : i + size] for i in range(0, len(some), size))


class ResumableLoader(DataLoader[Any]):
    """Loads batches, and goes on in the middle of an epoch: Lightning keeps its state.

    Args:
        dataset: reads the batches that the sampler names.
        sampler: names the batches of this rank.
        num_workers: processes that load batches.
        collate_fn: makes tensors of what the dataset gives.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        sampler: TaskBatches,
        num_workers: int = 0,
        collate_fn: Any = None,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=None,  # the sampler names whole batches
            sampler=sampler,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own: an epoch's start must not change the dropout
        )
        self.position = 0  # batches handed out in this epoch
        self._resume: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # Begins at the first `next`, when Lightning has set the epoch.
        sampler: Any = self.sampler
        sampler.start = self.position = self._first_batch()
        for batch in super().__iter__():
            self.position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where in which epoch the loader is, and what that depends on."""
        return {"batches": self.position, **self._epoch()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next pass goes on from a state, if it is one through the same epoch."""
        self._resume = state

    def _epoch(self) -> dict[str, int]:
        sampler: Any = self.sampler
        return {
            "epoch": sampler.epoch,
            "global_batch_size": sampler.global_batch_size,
            "batches_per_epoch": len(sampler),
        }

    def _first_batch(self) -> int:
        state, self._resume = self._resume, None
        now = self._epoch()
        if not state or state["epoch"] != now["epoch"] or not state["batches"]:
            return 0
        for key in ("global_batch_size", "batches_per_epoch"):
            if state[key] != now[key]:
                raise UserError(
                    f"The checkpoint is from the middle of an epoch with {key} {state[key]:,}, "
                    f"but now it is {now[key]:,}. Use the same data, and a --data.batch_size that "
                    f"times the number of devices is {state['global_batch_size']:,}."
                )
        return state["batches"]
