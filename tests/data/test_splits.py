from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2vec_pl.data.splits import validation_mask


def ids_of(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**63, count)


@pytest.mark.parametrize(
    ("count", "least", "most"),
    [(100_000, 900, 1100), (10_000, 60, 140), (1_000, 60, 140), (200, 8, 35), (4, 2, 2)],
)
def test_about_a_percent_is_held_out_and_more_of_few(count: int, least: int, most: int) -> None:
    assert least <= validation_mask(ids_of(count)).sum() <= most


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_are_all_for_training(count: int) -> None:
    assert not validation_mask(ids_of(count) // 100 * 100 + 99).any()


@given(st.lists(st.integers(0, 2**63 - 1), max_size=60))
def test_the_same_id_is_always_on_the_same_side(ids: list[int]) -> None:
    once = np.array(ids, np.int64)
    mask = validation_mask(np.concatenate([once, once[::-1]]))
    assert (mask[: len(once)] == mask[len(once) :][::-1]).all()
    if len(set(ids)) >= 4:
        assert len(set(once[mask[: len(once)]].tolist())) >= 2


def test_more_rows_move_few_to_the_other_side() -> None:
    ids = ids_of(20_000)
    before, after = validation_mask(ids), validation_mask(np.concatenate([ids, ids_of(500)[::-1]]))
    assert (before == after[: len(ids)]).all()
