import warnings

import pytest
import torch
from saved_models import save_model, small_llama

from llm2vec_pl.encoder import MultiVectorEncoder, save_encoder, save_projection
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.projection import new_projection, read_projection
from llm2vec_pl.errors import UserError

TEXTS = ["a cat", "what is the sum of all the numbers that a long list of rows holds", "count it"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder that a run of `LateInteraction` leaves."""
    folder = save_model(small_llama(), tmp_path_factory.mktemp("models") / "llama")
    encoder = Encoder(str(folder), lora_rank=0).load()
    torch.manual_seed(0)
    weight = new_projection(encoder.embedding_size, 8).weight
    place = folder.parent / "encoder"
    return save_encoder(encoder, place, {}, also=lambda new: save_projection(weight, new))


@pytest.fixture(scope="module")
def model(saved):
    return MultiVectorEncoder.from_pretrained(saved, dtype="float32")


def test_each_token_of_a_text_has_a_vector_of_length_1(model):
    for instruction in ("", "Represent this: "):
        vectors = model.encode(TEXTS, instruction)
        counts = model.encoder.tokenize(TEXTS, instruction)["pooling_mask"].sum(dim=1).tolist()
        assert [len(each) for each in vectors] == counts
        for each in vectors:
            torch.testing.assert_close(each.norm(dim=-1), torch.ones(len(each)))
    assert len({len(each) for each in vectors}) > 1


def test_a_vector_is_the_projected_hidden_state(model):
    (vectors,) = model.encode(TEXTS[:1])
    tokens = model.encoder.tokenize(TEXTS[:1])
    states = model.encoder.hidden_states(tokens)[0][tokens["pooling_mask"][0].bool()]
    expected = torch.nn.functional.normalize(model.projection(states), dim=-1)
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_batch_size_changes_nothing(model, batch_size):
    for got, wanted in zip(model.encode(TEXTS, "", batch_size), model.encode(TEXTS), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_similarity_compares_all_with_all(model):
    vectors = model.encode(TEXTS)
    scores = model.similarity(vectors[:2], vectors)
    assert scores.shape == (2, 3)
    torch.testing.assert_close(scores.diagonal(), torch.ones(2))
    assert scores[0, 1] < 0.999


def test_a_long_text_is_cut_at_the_encoders_length(saved):
    model = MultiVectorEncoder.from_pretrained(saved, max_length=5)
    assert len(model.encode(["count it " * 20])[0]) <= 5


def test_the_layer_is_one_of_sentence_transformers(saved):
    from sentence_transformers.models import Dense

    theirs = Dense.load(str(saved / "1_Dense"))
    torch.testing.assert_close(theirs.linear.weight.data, read_projection(saved).weight.data)
    assert isinstance(theirs.activation_function, torch.nn.Identity)


def test_the_folder_still_opens_as_an_encoder_with_a_warning(saved):
    with pytest.warns(UserWarning, match="was trained for late interaction"):
        encoder = Encoder.from_pretrained(saved)
    assert encoder.encode(TEXTS).shape == (3, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        MultiVectorEncoder.from_pretrained(saved)


def test_an_encoder_without_a_projection_is_an_error(saved, tmp_path):
    save_encoder(Encoder.from_pretrained(saved, dtype="float32"), tmp_path / "plain", {})
    with pytest.raises(UserError, match="has no projection for late interaction"):
        MultiVectorEncoder.from_pretrained(tmp_path / "plain")
    with pytest.raises(UserError, match="has no projection"):
        MultiVectorEncoder.from_pretrained("tiny")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_damaged_projection_is_an_error(saved, tmp_path, file):
    save_projection(torch.ones(2, 3), tmp_path)
    (tmp_path / "1_Dense" / file).write_bytes(b"{")
    with pytest.raises(UserError, match="1_Dense"):
        read_projection(tmp_path)
