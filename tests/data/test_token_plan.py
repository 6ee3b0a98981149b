from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2vec_pl.data.examples.token_plan import Limits, cut

TOKENS = st.lists(st.integers(1, 100), max_size=120)
RANKS = st.integers(1, 5)
BATCH_SIZES = st.integers(1, 12)
BUDGETS = st.integers(200, 900)  # two of the largest rows fit


@settings(deadline=None, max_examples=150)
@given(TOKENS, BUDGETS, RANKS, BATCH_SIZES)
def test_sorted_rows_are_cut_where_the_next_would_be_too_much(
    tokens: list[int], max_tokens: int, world_size: int, batch_size: int
) -> None:
    ordered = np.sort(np.array(tokens, np.int64))
    least = min(max(2, world_size), batch_size * world_size)
    edges = cut(ordered, Limits(batch_size, max_tokens, world_size, least))
    assert edges[-1] == len(tokens)
    assert edges[0] < least

    def fits(first: int, end: int) -> bool:
        shares = [ordered[first:end][rank::world_size] for rank in range(world_size)]
        return all(len(one) <= batch_size and one.sum() <= max_tokens for one in shares)

    for first, end in pairwise(edges):
        assert end - first >= least
        assert fits(first, end)
    # Only what the last batches need is taken from those before them.
    one_more = [fits(first, end + 1) for first, end in pairwise(edges) if end < len(tokens)]
    taken = [end - first == least for first, end in pairwise(edges)][1:]
    assert all(not more or any(taken[i:]) for i, more in enumerate(one_more))
