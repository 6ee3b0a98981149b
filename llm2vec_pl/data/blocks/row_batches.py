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

    The order depends only on seed and epoch. A global batch is the next `batch_size * world_size`
    rows in that order, and each rank takes every n-th of them: an epoch can continue with another
    batch size or number of ranks at the very row where it stopped. Each row comes once per epoch.
    If the last global batch has fewer rows than ranks, some ranks repeat a row, so that all have
    a batch.

    Args:
        dataset: the rows.
        batch_size: rows per batch and rank.
        rank: rank of this process.
        world_size: number of processes that train.
        seed: seed of the order.
        shuffle: draw a new order each epoch; otherwise keep that of the data set.
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
    """Rows that another rank has too: in validation they count only there."""


class RowsOf(Dataset[list[Any]]):
    """The rows that a batch names.

    Args:
        dataset: the data set with the rows.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, rows: list[int]) -> list[Any]:
        return type(rows)(self.dataset[row] for row in rows)
