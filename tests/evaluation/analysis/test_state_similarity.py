import pytest
import torch

from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.analysis import plot_similarity, state_similarity, states_of, token_rows

TEXTS = [f"{word} " * 30 + "end" for word in ("sea", "ship", "wave", "coast")]


@pytest.fixture(scope="module")
def states(causal, bidirectional):
    rows = token_rows(causal, TEXTS, length=16, count=4)
    return states_of(causal, rows, batch_size=3), states_of(bidirectional, rows)


def test_a_decoder_is_like_itself_everywhere(states):
    found = state_similarity(states[0], states[0])
    assert found["cosine"].shape == (states[0].shape[0], 16)
    torch.testing.assert_close(found["cosine"], torch.ones_like(found["cosine"]))
    assert (found["chance"] < 1).all()


def test_step_1_changes_all_states_but_the_token_embeddings(states):
    cosine = state_similarity(*states)["cosine"]
    torch.testing.assert_close(cosine[0], torch.ones(16))
    assert (cosine[1:, 0] < 1 - 1e-5).all()  # the first token sees the most that is new
    assert cosine[1:, 0].mean() < cosine[1:, -1].mean()


def test_chance_is_the_likeness_of_another_texts_state():
    first = torch.eye(4)[:, None].expand(4, 3, 4)[None]  # each text in a direction of its own
    found = state_similarity(first, first)
    assert found["chance"].tolist() == [0.0]
    same = torch.ones(1, 2, 3, 4)
    assert state_similarity(same, 5 * same)["chance"].tolist() == pytest.approx([1.0])


def test_encoders_of_different_decoders_are_refused(states):
    with pytest.raises(UserError, match="same decoder"):
        state_similarity(states[0], states[0][1:])
    with pytest.raises(UserError, match="at least two texts"):
        state_similarity(states[0][:, :1], states[0][:, :1])


def test_the_heat_map_has_a_row_for_each_layer_and_one_scale_for_all(states):
    found = {"both": state_similarity(*states), "itself": state_similarity(states[0], states[0])}
    figure = plot_similarity(found, "causal", texts=4)
    first, second, bar = figure.axes
    assert first.images[0].get_array().shape == tuple(found["both"]["cosine"].shape)
    assert first.images[0].get_clim() == second.images[0].get_clim() == (0, 1)
    assert second.get_title() == "itself, mean 1.00"
    assert (first.get_xlabel(), first.get_ylabel()[:5]) == ("position (token)", "layer")
    assert "cosine with the causal state" in bar.get_ylabel()
