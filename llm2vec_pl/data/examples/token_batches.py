"""Batches by tokens: as many examples as fit a budget, with a constant number of steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset
from typing_extensions import override

from llm2vec_pl.data.examples.batches import (
    TaskBatchSampler,
    TaskRows,
    pass_generator,
    passes_of_epoch,
    per_epoch,
)
from llm2vec_pl.data.examples.token_plan import Limits, TokenPlan
from llm2vec_pl.errors import UserError

if TYPE_CHECKING:
    from llm2vec_pl.data.examples.batches import Rows


class TokenBatchSampler(TaskBatchSampler):
    """Draws batches of one task each, by tokens. Positions are numbers of global batches.

    A rank's share of a batch has at most `batch_size` examples and `max_tokens` tokens. As in
    `TaskBatchSampler`, it takes every n-th row of a global batch, in the order of their tokens.

    An epoch uses a share of a pass's batches, by the task's weight, and goes through one pass
    after another; each pass puts the rows together in a new way (`TokenPlan`). So all epochs have
    the same number of batches, and with a weight of 1 each row comes at most once. Each pass leaves
    over different rows.

    Args:
        dataset: the data set that reads the batches.
        tasks: the tasks, in the data set's order, with the lengths of their rows in tokens.
        batch_size: examples per batch and rank, at most.
        max_tokens: tokens per batch and rank, at most.
        rank: rank of this process.
        world_size: number of processes that train.
        seed: seed of the order.
        shuffle: draw a new order each epoch, by the tasks' weights; otherwise each row is used
            once, always in the same order.

    Raises:
        UserError: if a task has examples too large for `max_tokens`.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        tasks: Sequence[TaskRows],
        batch_size: int,
        max_tokens: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        super().__init__(dataset, tasks, batch_size, rank, world_size, seed, shuffle)
        self.limits = Limits(batch_size, max_tokens, world_size, self.least)
        for task in self.tasks:
            _require_room(task, self.limits)
        self.plans = [TokenPlan.of(task.lengths, self.limits, shuffle) for task in self.tasks]

    @property
    def examples_per_batch(self) -> float:
        """The examples of a batch on a rank, averaged over an epoch."""
        used = zip(self.plans, self._counts, strict=True)
        rows = sum(plan.rows_used / plan.batches * count for plan, count in used if count)
        return rows / self.num_replicas / max(1, len(self))

    @property
    @override
    def left_over(self) -> dict[str, int]:
        plans = zip(self.tasks, self.plans, strict=True)
        rest = {task.name: len(plan.order) - plan.rows_used for task, plan in plans}
        return {name: count for name, count in rest.items() if count}

    @override
    def batch_ends(self, start: int = 0) -> range:
        return range(start + 1, sum(self._counts) + 1)

    @override
    def fixed_in_epoch(self) -> dict[str, int]:
        # How many rows fit depends on the ranks' shares: other shares would cut other batches.
        return {
            "max_tokens": self.limits.max_tokens,
            "devices": self.num_replicas,
            "global_batch_size": self.global_batch_size,
            "global_batches": sum(self._counts),
            "tokens": sum(int(task.lengths.sum()) for task in self.tasks),
        }

    @property
    def _counts(self) -> list[int]:
        """Batches of each task in an epoch."""
        return [
            per_epoch(plan.batches, task.weight)
            for task, plan in zip(self.tasks, self.plans, strict=True)
        ]

    @override
    def _global_batches(self, number: int, seed: int, epoch: int) -> Iterator[Rows]:
        task, plan, count = self.tasks[number], self.plans[number], self._counts[number]
        if not count:
            return
        passes, skipped = passes_of_epoch(plan.batches, count, epoch)
        for one in passes:
            draw = pass_generator(task, seed, one)
            batches = plan.draw(draw)
            chosen = draw.permutation(len(batches))[skipped : skipped + count].tolist()
            yield from (batches[i] for i in chosen)
            skipped, count = 0, count - len(chosen)


def _require_room(task: TaskRows, limits: Limits) -> None:
    count = ceil(limits.least / limits.world_size)
    largest = np.sort(task.lengths)[-count:]
    if (needed := int(largest.sum())) <= limits.max_tokens:
        return
    found = " and ".join(f"{tokens:,}" for tokens in largest.tolist())
    raise UserError(
        f"`max_tokens={limits.max_tokens}` is too small for {task.name}: a batch has at least "
        f"{count} of its examples on each device, and the largest have {found} tokens. "
        f"Set at least {needed}, or a smaller `encoder.max_length`."
    )
