from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2vec_pl.data.files.splits import held_out_rows, shared_text_groups, validation_mask


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


PAIRS = st.lists(st.tuples(st.integers(0, 60), st.lists(st.integers(40, 120), max_size=3)))


def arrays(rows: list[tuple[int, list[int]]]) -> tuple[np.ndarray, np.ndarray]:
    ids = ids_of(200)  # a text's number -> its hash
    pairs = [(row, ids[text]) for row, (_, texts) in enumerate(rows) for text in texts]
    queries = np.array([ids[query] for query, _ in rows], np.int64)
    return queries, np.array(pairs, np.int64).reshape(-1, 2)


@settings(deadline=None, max_examples=200)
@given(PAIRS)
def test_no_text_is_on_both_sides_unless_it_is_said(rows: list[tuple[int, list[int]]]) -> None:
    """A text may be the query of one row and a positive of another, as in pairs of duplicates."""
    mask, shared = held_out_rows(*arrays(rows))
    sides = [{rows[i][0] for i in np.flatnonzero(side)} for side in (mask, ~mask)]
    assert sides[0].isdisjoint(sides[1])
    texts = [
        {text for i in np.flatnonzero(side) for text in (rows[i][0], *rows[i][1])}
        for side in (mask, ~mask)
    ]
    assert bool(shared) == bool(texts[0] & texts[1])


@settings(deadline=None, max_examples=50)
@given(PAIRS)
def test_groups_are_the_connected_rows(rows: list[tuple[int, list[int]]]) -> None:
    groups = shared_text_groups(*arrays(rows)).tolist()
    expected = [{query, *texts} for query, texts in rows]
    for _ in rows:
        for one in expected:
            for other in expected:
                if one & other:
                    one |= other
    for one, texts in zip(groups, expected, strict=True):
        assert [one == other for other in groups] == [texts == others for others in expected]


def test_rows_that_share_nothing_are_split_as_by_their_queries() -> None:
    queries, positives = ids_of(3000), np.random.default_rng(1).integers(0, 2**63, 3000)
    mask, shared = held_out_rows(queries, np.stack([np.arange(3000), positives], 1))
    assert (mask == validation_mask(queries)).all()
    assert not shared


def test_where_all_positives_are_a_few_labels_queries_are_kept_apart() -> None:
    queries = ids_of(1000)
    mask, shared = held_out_rows(queries, np.stack([np.arange(1000), np.arange(1000) % 3], 1))
    assert (mask == validation_mask(queries)).all()
    assert shared == mask.sum()
