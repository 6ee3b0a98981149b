import pytest
import torch
from contrastive_texts import POSITIVES, QUERIES, assert_same_gradients, tokens
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.losses import AnglELoss, CoSENTLoss
from teachers import quiet
from torch.utils.data import DataLoader

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import AnglE, CoSENT
from llm2vec_pl.objectives.cosent import angle, cosent, cosine

SCORES = [5.0, 4.75, 0.0, 1.0, 1.0, 3.2, 2.0, 0.4]


@pytest.fixture
def encoder(llama_folder):
    return Encoder(llama_folder, lora_rank=4, lora_dropout=0.0)


def graded_batch(encoder, rows=slice(None)):
    batch = {"query": tokens(encoder, QUERIES[rows]), "positive": tokens(encoder, POSITIVES[rows])}
    batch["positive"]["score"] = torch.tensor(SCORES[rows])
    return batch


def loaded(module):
    """With a LoRA that is not the identity."""
    module.configure_model()
    torch.manual_seed(1)
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return module


def gradients(module, batch):
    module.zero_grad()
    loss = module.loss(batch)
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("size", [16, 7])
@pytest.mark.parametrize(("theirs", "similarity"), [(CoSENTLoss, cosine), (AnglELoss, angle)])
def test_loss_and_gradient_are_those_of_sentence_transformers(theirs, similarity, size):
    torch.manual_seed(0)
    pairs = torch.randn(2, 12, size, requires_grad=True)
    scores = torch.tensor([*SCORES, *SCORES[:4]])  # with ties
    expected = theirs(torch.nn.Identity(), scale=20.0).compute_loss_from_embeddings(pairs, scores)
    loss = cosent(similarity(*pairs), scores, temperature=0.05)
    torch.testing.assert_close(loss, expected)
    gradient = [torch.autograd.grad(each, pairs)[0] for each in (loss, expected)]
    torch.testing.assert_close(*gradient)


@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 3)), min_size=1, max_size=8))
def test_the_loss_counts_the_pairs_in_the_wrong_order(pairs):
    """At a temperature near 0, it is the largest of their differences."""
    similarities, scores = (
        torch.tensor(each, dtype=torch.float32) for each in zip(*pairs, strict=True)
    )
    wrong = [s - t for s, a in pairs for t, b in pairs if a < b]
    largest = max([0.0, *wrong])
    loss = cosent(similarities, scores, temperature=1e-3).item()
    assert loss * 1e-3 == pytest.approx(largest, abs=5e-3)


def test_scores_on_any_scale_give_the_same_loss(encoder):
    module, batch = loaded(CoSENT(encoder)), graded_batch(encoder)
    loss = module.loss(batch)
    batch["positive"]["score"] = batch["positive"]["score"] / 5 - 3
    assert torch.equal(module.loss(batch), loss)


def test_equal_scores_have_nothing_to_teach(encoder):
    module, batch = loaded(CoSENT(encoder)), graded_batch(encoder)
    batch["positive"]["score"] = torch.ones(len(QUERIES))
    loss, found = gradients(module, batch)
    assert loss == 0
    assert not any(gradient.any() for gradient in found.values())


@pytest.mark.parametrize("kind", [CoSENT, AnglE])
def test_chunks_give_the_gradient_of_the_whole_batch(encoder, kind):
    module = loaded(kind(encoder))
    batch = graded_batch(encoder)
    loss, expected = gradients(module, batch)
    passes = []
    encoder.decoder.register_forward_pre_hook(lambda *_: passes.append(1))
    module.chunk_size = 5
    chunked_loss, chunked = gradients(module, batch)
    assert len(passes) == 2 * 4  # of 16 texts, each chunk again in the backward pass
    torch.testing.assert_close(chunked_loss, loss, atol=0, rtol=1e-6)
    assert_same_gradients(chunked, expected)


def test_angle_adds_the_losses_of_both_measures(encoder):
    module, batch = loaded(AnglE(encoder, cosine_weight=2.0)), graded_batch(encoder)
    pairs, scores = module.embed(batch), batch["positive"]["score"]
    expected = 2 * cosent(cosine(*pairs), scores, 0.05) + cosent(angle(*pairs), scores, 0.05)
    torch.testing.assert_close(module.loss(batch), expected)


def test_training_brings_pairs_in_order(llama_folder):
    """And logs how well the cosines agree with the scores."""
    module = AnglE(Encoder(llama_folder, lora_rank=0), learning_rate=3e-3)
    loader = DataLoader([graded_batch(module.encoder)] * 8, batch_size=None)
    trainer = quiet(max_steps=8, val_check_interval=8)
    trainer.validate(module, loader, verbose=False)
    before = dict(trainer.callback_metrics)
    trainer.fit(module, loader, loader)
    after = trainer.callback_metrics
    assert after["val/loss"] < 0.7 * before["val/loss"]
    assert after["val/correlation"] > before["val/correlation"] + 0.1


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (CoSENT, {"temperature": 0.0}, "`temperature` is above 0, but got 0.0"),
        (CoSENT, {"chunk_size": 0}, "`chunk_size` is at least 1 text"),
        (AnglE, {"cosine_weight": -1.0}, "`cosine_weight` is at least 0, but got -1.0"),
        (AnglE, {"temperature": -1.0}, "`temperature` is above 0"),
    ],
)
def test_wrong_options_are_errors_before_any_weights_are_read(encoder, kind, options, message):
    with pytest.raises(UserError, match=message):
        kind(encoder, **options)


def test_pairs_without_scores_are_an_error(encoder):
    batch = graded_batch(encoder)
    del batch["positive"]["score"]
    with pytest.raises(UserError, match="pairs with scores, but this data has none"):
        loaded(AnglE(encoder)).loss(batch)
