import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm2vec_pl.encoder.pooling import pool, pool_packed

STATES = torch.tensor([[[1.0], [2.0], [4.0], [8.0]]])  # (1, 4, 1)


@pytest.mark.parametrize(
    ("pooling", "mask", "expected"),
    [
        ("mean", [1, 1, 0, 0], 1.5),
        ("mean", [0, 0, 1, 1], 6.0),
        ("weighted_mean", [0, 1, 1, 0], (1 * 2 + 2 * 4) / 3),
        ("last", [1, 1, 1, 0], 4.0),
        ("last", [0, 1, 0, 1], 8.0),
        ("first", [0, 1, 1, 1], 2.0),
    ],
)
def test_only_marked_tokens_count_on_any_side(pooling, mask, expected):
    assert pool(STATES, torch.tensor([mask]), pooling).item() == pytest.approx(expected)


@given(st.lists(st.booleans(), min_size=1, max_size=12).filter(any))
def test_a_mean_lies_between_the_states_it_averages(mask):
    states = torch.randn(1, len(mask), 3, generator=torch.Generator().manual_seed(len(mask)))
    marked = states[0, torch.tensor(mask)]
    for pooling in ("mean", "weighted_mean", "last", "first"):
        embedding = pool(states, torch.tensor([mask]), pooling)[0]
        assert (embedding <= marked.amax(0) + 1e-6).all()
        assert (embedding >= marked.amin(0) - 1e-6).all()


@pytest.mark.parametrize("pooling", ["mean", "weighted_mean", "last", "first"])
@given(data=st.data())
def test_states_laid_end_to_end_pool_as_in_their_batch(pooling, data):
    rows = st.lists(st.booleans(), min_size=5, max_size=5).filter(any)
    mask = torch.tensor(data.draw(st.lists(rows, min_size=1, max_size=4))).long()
    states = torch.randn(len(mask), 5, 3, generator=torch.Generator().manual_seed(0))
    index = torch.tensor(data.draw(st.permutations(range(mask.numel()))))
    packed = pool_packed(states.flatten(0, 1)[index], index, mask, pooling)
    torch.testing.assert_close(packed, pool(states, mask, pooling))


def test_nan_in_the_padding_stays_there():
    states = STATES.clone()
    states[0, 3] = float("nan")
    assert pool(states, torch.tensor([[1, 1, 1, 0]])).isfinite().all()


def test_the_embedding_of_bfloat16_states_is_float32():
    assert pool(STATES.bfloat16(), torch.ones(1, 4)).dtype == torch.float32


def test_an_unknown_pooling_lists_the_known_ones():
    with pytest.raises(ValueError, match="mean, weighted_mean, last, first, but got 'max'"):
        pool(STATES, torch.ones(1, 4), "max")
