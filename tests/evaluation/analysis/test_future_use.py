import pytest
import torch

from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.analysis import Triple, future_use, plot_future, read_triples
from llm2vec_pl.evaluation.analysis.future import beginnings, summary

TRIPLES = read_triples(limit=12)


def test_to_a_causal_decoder_the_beginnings_are_the_same_in_every_layer(causal):
    found = future_use(causal, TRIPLES, batch_size=5)
    ones = [1.0] * (causal.config.num_hidden_layers + 1)
    assert found["positive"] == pytest.approx(ones, abs=1e-5)
    assert found["negative"] == pytest.approx(ones, abs=1e-5)
    assert found["margin"] == pytest.approx([0.0] * len(ones), abs=1e-5)
    assert found["accuracy"] == [0.5] * len(ones)


def test_a_bidirectional_one_tells_them_apart_above_the_token_embeddings(bidirectional):
    found = future_use(bidirectional, TRIPLES)
    assert found["positive"][0] == pytest.approx(1.0, abs=1e-6)
    assert found["accuracy"][0] == 0.5
    assert found["positive"][-1] < 1 - 1e-4
    assert found["negative"][-1] < 1 - 1e-4


def test_the_cosines_are_those_of_the_common_tokens_of_each_triple_alone(bidirectional):
    triple = Triple("The old bank lost money", "The old bank was robbed", "The old bank is green")
    expected = []
    for text in (triple.query, triple.positive, triple.negative):
        batch = bidirectional.tokenize([text])
        common = len(bidirectional.tokenize(["The old bank"])["input_ids"][0])
        expected.append(bidirectional.hidden_states(batch)[0, 1:common].mean(dim=0))  # not <s>
    cosines = [torch.cosine_similarity(expected[0], other, dim=0).item() for other in expected[1:]]
    found = future_use(bidirectional, [*TRIPLES, triple])
    others = future_use(bidirectional, TRIPLES)
    for name, cosine in zip(("positive", "negative"), cosines, strict=True):
        total = found[name][-1] * 13 - others[name][-1] * 12
        assert total == pytest.approx(cosine, abs=1e-4)


def test_the_last_layer_alone_is_the_last_of_all(bidirectional):
    every, last = future_use(bidirectional, TRIPLES), future_use(bidirectional, TRIPLES, 5, False)
    for metric, values in every.items():
        assert last[metric] == pytest.approx(values[-1:], abs=1e-5)


def test_who_puts_the_positive_nearer_is_right():
    cosines = torch.tensor([[[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.7, 0.6]]])  # (1, 4, 2)
    found = summary(cosines)
    assert found["accuracy"] == pytest.approx([2.5 / 4])
    assert found["margin"] == pytest.approx([0.3 / 4])


def test_only_the_texts_own_tokens_up_to_the_first_difference_are_marked():
    batch = {
        "input_ids": torch.tensor([[1, 5, 6, 7], [1, 5, 6, 8], [1, 5, 9, 7]]),
        "attention_mask": torch.ones(3, 4, dtype=torch.long),
        "pooling_mask": torch.tensor([[0, 1, 1, 1]] * 3),
    }
    assert beginnings(batch).tolist() == [[0, 1, 0, 0]] * 3


@pytest.mark.parametrize(
    ("triple", "length", "message"),
    [
        (Triple("one a", "two a", "three a"), 64, "begin with different tokens"),
        (Triple("the bat " * 20 + "a", "the bat " * 20 + "b", "the bat c"), 8, "`max_length`"),
    ],
)
def test_sentences_that_cannot_be_compared_are_an_error(triple, length, message, bidirectional):
    longest = bidirectional.tokenize.max_length
    bidirectional.tokenize.max_length = length
    try:
        with pytest.raises(UserError, match=message):
            future_use(bidirectional, [triple])
    finally:
        bidirectional.tokenize.max_length = longest


def test_the_figure_says_what_it_shows(causal, bidirectional):
    found = {"causal": future_use(causal, TRIPLES), "both": future_use(bidirectional, TRIPLES)}
    figure = plot_future(found, len(TRIPLES))
    left, right = figure.axes
    assert left.get_ylabel() == "share of triples"
    assert left.get_xlabel() == right.get_xlabel() == "layer (0: token embeddings)"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:2] == ["causal", "both"]
    drawn = {line.get_label(): list(line.get_ydata()) for line in right.lines}
    assert drawn["both"] == found["both"]["margin"]
