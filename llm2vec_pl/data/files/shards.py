"""Which rows each of several readers reads, without reading the others' into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from typing_extensions import override


class Shard(NamedTuple):
    """Every n-th row, beginning with one of the first n.

    A source whose number of files is a multiple of the readers may deal out whole files instead.
    """

    reader: int = 0
    readers: int = 1
    start: int = 0  # rows of the shard to skip
    stop: int | None = None  # rows of all readers together; all if None

    @property
    def first(self) -> int:
        """The first row, among those of all readers."""
        return self.reader + self.start * self.readers

    @property
    def most(self) -> int | None:
        """The largest possible number of rows; None without a `stop`."""
        return None if self.stop is None else len(range(self.first, self.stop, self.readers))


class ShardFilter:
    """Goes through the rows of a source, file after file, and picks those of a shard.

    Args:
        shard: the rows to pick; its `stop` is left to the caller.
    """

    def __init__(self, shard: Shard) -> None:
        self.first, self.step = shard.first, shard.readers
        self.passed = 0  # rows gone through

    def wants(self) -> bool:
        """Whether the next row is picked."""
        row = self.passed
        self.passed = row + 1
        return row >= self.first and (row - self.first) % self.step == 0

    def wanted(self, count: int) -> Sequence[int]:
        """The ones picked of the next `count` rows, counted from 0."""
        away = self.first - self.passed
        self.passed += count
        return range(max(away, away % self.step), count, self.step)

    def passes(self, count: int) -> bool:
        """Whether none of the next `count` rows is picked; if so, they count as gone through."""
        start = self.passed
        if self.wanted(count):
            self.passed = start
        return self.passed > start


class ChunkFilter(ShardFilter):
    """Goes through the rows of a source and picks whole chunks of consecutive rows.

    Args:
        size: rows in a chunk; the last one of a source may have fewer.
        wants_chunk: whether a chunk is picked, by its number from 0.
    """

    def __init__(self, size: int, wants_chunk: Callable[[int], bool]) -> None:
        super().__init__(Shard())
        self.size = size
        self.wants_chunk = wants_chunk

    @override
    def wants(self) -> bool:
        row = self.passed
        self.passed = row + 1
        return self.wants_chunk(row // self.size)

    @override
    def wanted(self, count: int) -> Sequence[int]:
        start = self.passed
        self.passed += count
        return [i for i in range(count) if self.wants_chunk((start + i) // self.size)]

    @override
    def passes(self, count: int) -> bool:
        chunks = range(self.passed // self.size, -(-(self.passed + count) // self.size))
        if any(map(self.wants_chunk, chunks)):
            return False
        self.passed += count
        return True


def spread(count: int, limit: int | None) -> list[int]:
    """At most `limit` of the numbers below `count`, evenly spread, in order.

    >>> spread(10, 4)
    [0, 2, 5, 7]
    """
    chosen = count if limit is None else min(count, limit)
    return [i * count // chosen for i in range(chosen)]
