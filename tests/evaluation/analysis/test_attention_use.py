import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.analysis import attention_use, plot_attention, token_rows
from llm2vec_pl.evaluation.analysis.attention import attention_parts, uniform_share

TEXTS = [f"{word} " * 30 for word in ("sea", "ship", "wave")]


@pytest.fixture(scope="module")
def found(eager):
    rows = token_rows(eager["causal"], TEXTS, length=12, count=3)
    return {name: attention_use(encoder, rows, batch_size=2) for name, encoder in eager.items()}


@given(st.integers(1, 40))
def test_uniform_attention_gives_later_tokens_their_share(length):
    weights = torch.full((2, 3, length, length), 1 / length)
    first, earlier, itself, later = attention_parts(weights).tolist()
    assert later == pytest.approx(uniform_share(length), abs=1e-5)
    assert first + earlier == pytest.approx(uniform_share(length), abs=1e-5)
    assert itself == pytest.approx(1 / length, abs=1e-5)


def test_a_causal_decoder_gives_later_tokens_nothing_a_bidirectional_one_much(found, eager):
    layers = eager["causal"].config.num_hidden_layers
    assert found["causal"]["later"] == [0.0] * layers
    # The weights are random and small, so attention is nearly uniform.
    assert found["bidirectional"]["later"] == pytest.approx([uniform_share(12)] * layers, abs=0.05)


def test_the_shares_of_a_layer_add_up_to_one(found):
    for parts in found.values():
        sums = [sum(layer) for layer in zip(*parts.values(), strict=True)]
        assert sums == pytest.approx([1.0] * len(sums), abs=1e-5)


def test_the_first_token_is_counted_apart():
    looks_at_the_first = torch.tensor([[1.0, 0.0, 0.0]] * 3)
    assert attention_parts(looks_at_the_first).tolist() == pytest.approx([2 / 3, 0, 1 / 3, 0])


def test_other_attention_than_eager_is_an_error(bidirectional):
    rows = token_rows(bidirectional, TEXTS, length=12, count=3)
    with pytest.raises(UserError, match='attention="eager"'):
        attention_use(bidirectional, rows)


def test_the_figure_has_the_share_of_uniform_attention(found):
    figure = plot_attention(found, length=12)
    left, right = figure.axes
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["causal", "bidirectional", "uniform attention, 0.46"]
    assert left.get_ylabel() == right.get_ylabel() == "share of the attention weight"
    assert left.get_xlabel() == "layer"
