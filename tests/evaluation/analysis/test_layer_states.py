import pytest
import torch
from evaluation_texts import TEXTS

from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.analysis import layer_embeddings, layer_states, token_rows

POOLINGS = ["mean", "weighted_mean", "last", "first"]


def test_the_first_are_the_token_embeddings_and_the_last_the_encoders(bidirectional):
    batch = bidirectional.tokenize(TEXTS)
    states = layer_states(bidirectional, batch)
    assert len(states) == bidirectional.config.num_hidden_layers + 1
    table = bidirectional.decoder.get_input_embeddings()
    torch.testing.assert_close(states[0], table(batch["input_ids"]).detach())
    real = batch["attention_mask"].bool()
    expected = bidirectional.hidden_states(batch)
    torch.testing.assert_close(states[-1][real], expected[real], atol=1e-5, rtol=1e-4)


def test_the_last_layers_embeddings_are_those_of_encode(llama_folder, bidirectional):
    found = layer_embeddings(bidirectional, TEXTS, POOLINGS, batch_size=3)
    try:
        for pooling in POOLINGS:
            bidirectional.pooling = pooling
            expected = bidirectional.encode(TEXTS)
            torch.testing.assert_close(found[pooling][-1], expected, atol=1e-5, rtol=1e-4)
    finally:
        bidirectional.pooling = "mean"


def test_an_encoder_in_training_stays_in_training_without_dropout_meanwhile(llama_folder):
    from llm2vec_pl.encoder.encoder import Encoder

    encoder = Encoder(llama_folder, lora_rank=4, lora_dropout=0.5).load()
    batch = encoder.tokenize(TEXTS[:2])
    first, second = (layer_states(encoder, batch)[-1] for _ in range(2))
    assert encoder.decoder.training
    torch.testing.assert_close(first, second)
    assert not first.requires_grad


def test_rows_are_the_beginnings_of_the_first_long_texts(causal):
    texts = ["too short", *(f"{word} " * 30 for word in ("one", "two", "three", "four"))]
    rows = token_rows(causal, texts, length=20, count=3)
    assert rows.shape == (3, 20)
    assert rows[0].tolist() == causal.tokenize([texts[1]])["input_ids"][0, :20].tolist()


@pytest.mark.parametrize(
    ("length", "message"),
    [(40, "at least two texts of 40 tokens, but only 1 of 2"), (1000, "`max_length`.* got 1000")],
)
def test_too_long_a_length_is_an_error_that_says_what_there_is(length, message, causal):
    with pytest.raises(UserError, match=message):
        token_rows(causal, ["short", "long " * 60], length, count=2)
