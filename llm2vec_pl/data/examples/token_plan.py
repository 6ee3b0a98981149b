"""Where to cut the rows of a task into batches within a budget of tokens."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, sqrt
from typing import TYPE_CHECKING

import numpy as np

from llm2vec_pl.data.examples.batches import BATCHES_PER_WINDOW

if TYPE_CHECKING:
    from llm2vec_pl.data.examples.batches import Rows

_TRIED = 8  # numbers of windows to try; the one that leaves over the fewest rows is used


@dataclass(frozen=True)
class Limits:
    """The limits of a batch.

    Args:
        batch_size: examples on a rank, at most.
        max_tokens: tokens on a rank, at most.
        world_size: number of ranks.
        least: examples on all ranks together, at least.
    """

    batch_size: int
    max_tokens: int
    world_size: int
    least: int


@dataclass(frozen=True)
class TokenPlan:
    """How each pass batches the rows of a task: the same sizes each time, with other rows.

    The rows, sorted by tokens, are dealt out to windows: of each `windows` consecutive rows, each
    window gets one, drawn anew in each pass. So the i-th row of a window never has more tokens than
    the longest of the i-th rows of all windows. Cutting these longest rows into batches within the
    limits therefore gives a cut that suits every window of every pass.

    Args:
        order: all rows, the shortest first.
        windows: number of windows.
        edges: where each batch begins in a window, and where the last one ends, from 0.
    """

    order: Rows
    windows: int
    edges: list[int]

    @classmethod
    def of(cls, tokens: Rows, limits: Limits, shuffle: bool = True) -> TokenPlan:
        """The plan for rows with these numbers of tokens; without shuffling there is one window."""
        order = np.argsort(tokens, kind="stable")
        ordered = tokens[order]
        most = _windows(tokens, limits) if shuffle else 1
        plans = []
        for windows in range(most, max(0, most - _TRIED), -1):
            left = len(order) % windows
            longest = ordered[left:][windows - 1 :: windows]  # of the i-th rows
            edges = cut(longest, limits)
            plans.append(cls(order, windows, [edge - edges[0] for edge in edges]))
        return max(plans, key=lambda plan: plan.rows_used)

    @property
    def batches(self) -> int:
        """Batches of a pass."""
        return self.windows * (len(self.edges) - 1)

    @property
    def rows_used(self) -> int:
        """Rows in the batches of a pass."""
        return self.windows * self.edges[-1]

    def draw(self, generator: np.random.Generator) -> list[Rows]:
        """The rows of each batch of a pass, the shortest first in each."""
        kept = self.order
        if len(kept) > self.rows_used:
            # Whichever are left out, the i-th of the others is not longer than planned.
            kept = kept[np.sort(generator.permutation(len(kept))[: self.rows_used])]
        dealt = generator.permuted(kept.reshape(self.edges[-1], self.windows), axis=1)
        windows = np.ascontiguousarray(dealt.T)  # (windows, rows)
        return [window[a:b] for window in windows for a, b in pairwise(self.edges)]


def cut(tokens: Rows, limits: Limits) -> list[int]:
    """Where to cut sorted rows into batches, each with as many rows as the limits allow.

    If the rest is too small for a batch, the last batches are shortened. This may leave too few
    rows for the first batch: they then belong to none.

    Args:
        tokens: numbers of tokens of the rows, the shortest first, (rows,).
        limits: a batch's limits; any `least` of the rows are within them.

    Returns:
        The first row of each batch, and the number of rows.
    """
    ranks, most = limits.world_size, limits.batch_size * limits.world_size
    padded = np.zeros(ceil(len(tokens) / ranks) * ranks, np.int64)
    padded[: len(tokens)] = tokens
    sums = padded.reshape(-1, ranks).cumsum(axis=0).ravel().tolist()

    def largest_share(last: int) -> int:
        # The share of the rank with the last row: for each row of another rank it has one as long.
        before = start + (last - start) % ranks - ranks
        return int(sums[last] - (sums[before] if before >= 0 else 0))

    edges = [0]
    while (start := edges[-1]) < len(tokens):
        rows = range(start, min(start + most, len(tokens)))
        edges.append(start + bisect_right(rows, limits.max_tokens, key=largest_share))
    for i in reversed(range(len(edges) - 1)):
        edges[i] = min(edges[i], edges[i + 1] - limits.least)
    return [edge for edge in edges if edge >= 0]


def _windows(tokens: Rows, limits: Limits) -> int:
    """How many windows: each has as many batches as there are windows, but at most 50.

    The more windows, the more rows can meet in a batch; the longer the windows, the more similar
    the lengths in a batch.
    """
    ranks = limits.world_size
    batches = max(
        len(tokens) / (limits.batch_size * ranks), int(tokens.sum()) / (limits.max_tokens * ranks)
    )
    return max(1, int(batches / min(BATCHES_PER_WINDOW, sqrt(batches) or 1)))
