from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm2vec_pl.encoder.packing import batches_by_length, pack_texts

masks = (
    st.integers(1, 6)
    .flatmap(
        lambda width: st.lists(
            st.lists(st.integers(0, 1), min_size=width, max_size=width), min_size=1, max_size=6
        )
    )
    .map(torch.tensor)
)


@given(masks)
def test_each_real_token_has_its_place_and_padding_none(mask):
    texts = pack_texts(mask)
    if texts is None:
        assert mask.all() or not mask.any()
    else:
        assert sorted(texts.index.tolist()) == mask.flatten().nonzero()[:, 0].tolist()


@given(masks)
def test_a_text_lies_in_one_piece_in_reading_order_from_position_0(mask):
    texts = pack_texts(mask)
    if texts is None:
        return
    lengths = [length for count, length in texts.groups for _ in range(count)]
    assert texts.boundaries.diff().tolist() == lengths == sorted(lengths)
    assert texts.boundaries.dtype == torch.int32
    assert texts.longest == mask.sum(dim=1).max()
    for start, end in pairwise(texts.boundaries):
        places = texts.index[start:end]
        assert places.tolist() == sorted(places.tolist())
        assert len({place // mask.shape[1] for place in places.tolist()}) == 1
        assert texts.position_ids[start:end].tolist() == list(range(end - start))


def test_a_batch_without_padding_is_left_as_it_is():
    assert pack_texts(torch.ones(2, 3)) is None
    assert pack_texts(torch.zeros(0, 3)) is None


@given(
    st.lists(st.integers(1, 50), max_size=30),
    st.integers(1, 8),
    st.integers(1, 100),
    st.booleans(),
)
def test_each_text_is_in_one_batch_and_no_batch_is_too_large(lengths, batch_size, budget, padded):
    batches = list(batches_by_length(lengths, batch_size, budget, padded))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch)
        cost = longest * len(batch) if padded else sum(lengths[row] for row in batch)
        assert len(batch) <= batch_size
        assert cost <= budget or len(batch) == 1
        assert lengths[batch[0]] == longest


@pytest.mark.parametrize(("padded", "count"), [(True, 3), (False, 2)])
def test_padding_counts_towards_the_budget_where_it_is_run(padded, count):
    assert len(list(batches_by_length([10, 4, 4, 2], 32, 10, padded))) == count
