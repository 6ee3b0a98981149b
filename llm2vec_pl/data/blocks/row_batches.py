"""Batches of single rows, such as blocks of text, in an order that the ranks share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset
from typing_extensions import override

from llm2vec_pl.data.resuming import ResumableBatchSampler


class RowBatchSampler(ResumableBatchSampler):
    """Names batches of rows. Positions are rows of the epoch's order.

    The order depends on seed and epoch alone. A global batch is the next `batch_size * world_size`
    rows of it, of which each rank takes every n-th: an epoch can go on with another batch size or
    number of ranks at the very row where it stopped. Each row comes once an epoch; where the last
    global batch has fewer rows than ranks, some ranks repeat one of it, so that all have a batch.

    Args:
        dataset: of the rows.
        batch_size: rows per batch and rank.
        rank: of this process.
        world_size: processes that train.
        seed: of the order.
        shuffle: draw the order anew each epoch; otherwise it is that of the data set.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)
        self.rows = len(dataset)  # type: ignore[arg-type]
        self.global_batch_size = batch_size * world_size

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        order = torch.arange(self.rows)
        if self.shuffle:
            # The order of torch's DistributedSampler.
            draw = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.rows, generator=draw)
        for stop in self.batch_ends(start):
            rows = order[stop - self.global_batch_size : stop]
            mine = rows[self.rank :: self.num_replicas]
            yield mine.tolist() or RepeatedRows([int(rows[self.rank % len(rows)])])

    @override
    def batch_ends(self, start: int = 0) -> range:
        size = self.global_batch_size
        return range(start + size, self.rows + size, size)

    @override
    def fixed_in_epoch(self) -> dict[str, int]:
        return {"rows": self.rows}


class RepeatedRows(list[Any]):
    """Rows that are another rank's too: in validation they count there alone."""


class RowsOf(Dataset[list[Any]]):
    """The rows that a batch names.

    Args:
        dataset: that has them.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, rows: list[int]) -> list[Any]:
        return type(rows)(self.dataset[row] for row in rows)
