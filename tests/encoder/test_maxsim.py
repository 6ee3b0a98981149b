import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.util import maxsim

from llm2vec_pl.encoder.maxsim import max_sim

SIZES = st.integers(1, 5)


def vectors(rows, tokens, seed, size=4):
    """With at least one vector a text that is not padding."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, tokens + 1, (rows, 1), generator=draw)
    mask = torch.arange(tokens) < lengths
    return torch.randn(rows, tokens, size, generator=draw) * mask[..., None], mask


@given(SIZES, SIZES, SIZES, SIZES, st.integers(0, 99))
def test_scores_are_those_of_sentence_transformers(queries, documents, few, many, seed):
    a, a_mask = vectors(queries, few, seed)
    b, b_mask = vectors(documents, many, seed + 1)
    unit = [torch.nn.functional.normalize(each, dim=-1) for each in (a, b)]
    expected = maxsim(*unit, a_mask=a_mask, b_mask=b_mask, length_normalize=True)
    torch.testing.assert_close(max_sim(a, b), expected)


def test_padding_does_not_count_however_unlike_the_texts_are():
    """A vector of 0 would be more similar than one that points the other way."""
    query = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    document = torch.tensor([[[0.0, 0.0], [-1.0, 0.0]]])
    assert max_sim(query, document).item() == -1.0


@pytest.mark.parametrize("elements", [1, 40, 10_000])
def test_blocks_have_the_scores_and_the_gradient_of_all_at_once(elements, monkeypatch):
    (a, _), (b, _) = vectors(5, 3, 0), vectors(7, 4, 1)
    a.requires_grad_(), b.requires_grad_()
    expected = max_sim(a, b)
    wanted = torch.autograd.grad(expected.square().sum(), (a, b))
    monkeypatch.setattr("llm2vec_pl.encoder.maxsim.ELEMENTS_AT_ONCE", elements)
    scores = max_sim(a, b)
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(torch.autograd.grad(scores.square().sum(), (a, b)), wanted)


def test_no_documents_have_no_scores():
    assert max_sim(torch.ones(2, 3, 4), torch.ones(0, 3, 4)).shape == (2, 0)
