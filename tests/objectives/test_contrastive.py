import pytest
import torch
import torch.nn.functional as F
from contrastive_texts import (
    NEGATIVES,
    POSITIVES,
    QUERIES,
    assert_same_gradients,
    contrastive_batch,
    tokens,
)
from lightning.pytorch import Trainer
from saved_models import save_model, small_llama
from torch.utils.data import DataLoader

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.losses import info_nce
from llm2vec_pl.objectives import Contrastive

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


ALL_NEGATIVES = [text for texts in NEGATIVES for text in texts]


@pytest.fixture
def encoder(llama_folder):
    return Encoder(llama_folder, lora_rank=4, lora_dropout=0.0)


def loaded(encoder, **options):
    """A module whose LoRA is not the identity."""
    module = Contrastive(encoder, **options)
    module.configure_model()
    torch.manual_seed(1)
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return module


def gradients(module, batch):
    module.zero_grad()
    torch.manual_seed(7)  # the same dropout
    loss = module.loss(batch)
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def test_the_loss_is_info_nce_of_the_texts_embedded_one_by_one(encoder):
    module = loaded(encoder, temperature=0.1).eval()
    one_by_one = lambda texts: torch.cat([encoder(encoder.text([text])) for text in texts])  # noqa: E731
    expected = info_nce(one_by_one(QUERIES), one_by_one(POSITIVES), one_by_one(ALL_NEGATIVES), 0.1)
    torch.testing.assert_close(
        module.loss(contrastive_batch(encoder)), expected, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("rank", [0, 4])
def test_chunks_give_the_gradient_of_the_whole_batch(llama_folder, rank, checkpointing):
    options = {"lora_rank": rank, "lora_dropout": 0.0, "gradient_checkpointing": checkpointing}
    module = loaded(Encoder(llama_folder, **options))
    batch = contrastive_batch(module.encoder)
    loss, expected = gradients(module, batch)
    module.chunk_size = 5
    chunked_loss, chunked = gradients(module, batch)
    torch.testing.assert_close(chunked_loss, loss, atol=0, rtol=1e-6)
    assert_same_gradients(chunked, expected)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_chunks_are_computed_again_with_the_dropout_they_had(llama_folder, checkpointing):
    """Against the same chunks kept in memory, since other chunks draw other dropout."""
    encoder = Encoder(
        llama_folder, lora_rank=4, lora_dropout=0.3, attention_dropout=0.3,
        gradient_checkpointing=checkpointing,
    )  # fmt: skip
    module = loaded(encoder, chunk_size=5)
    batch = contrastive_batch(encoder)
    loss, chunked = gradients(module, batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "llm2vec_pl.objectives.contrastive.checkpoint", lambda f, x, use_reentrant: f(x)
        )
        kept_loss, kept = gradients(module, batch)
    assert torch.equal(loss, kept_loss)
    assert_same_gradients(chunked, kept)


def test_matryoshka_is_the_mean_over_truncated_embeddings(encoder):
    module = loaded(encoder, matryoshka_dims=[8, 32], symmetric=True, margin=0.05, chunk_size=4)
    batch = contrastive_batch(encoder)
    losses = []
    for dim in module.dims:
        module.dims = [dim]
        losses.append(module.loss(batch))
    module.dims = [8, 32]
    torch.testing.assert_close(module.loss(batch), torch.stack(losses).mean())


def test_a_learned_temperature_is_trained_and_a_fixed_one_is_not(encoder):
    batch = contrastive_batch(encoder)
    fixed = loaded(encoder, temperature=0.02)
    assert fixed.temperature.item() == pytest.approx(0.02)
    assert "log_temperature" not in gradients(fixed, batch)[1]
    learned = loaded(encoder, temperature=0.02, learn_temperature=True)
    assert gradients(learned, batch)[1]["log_temperature"] != 0


def test_a_projection_stands_between_embedding_and_loss(encoder):
    module = loaded(encoder, projection_dim=8)
    batch = contrastive_batch(encoder)
    assert module.embed(batch).queries.shape == (len(QUERIES), 8)
    assert gradients(module, batch)[1]["projection.0.weight"].any()
    assert module(batch["query"]).shape == (len(QUERIES), 32)


def test_a_sentence_drawn_twice_is_not_its_own_negative(encoder):
    sentences = ["a cat", "a dog", "a cat", "a bird"]
    batch = {"query": tokens(encoder, sentences), "positive": tokens(encoder, sentences)}
    module = loaded(encoder, temperature=0.1).eval()
    embeddings = F.normalize(encoder(batch["query"]), dim=-1)
    scores = embeddings @ embeddings.T / 0.1
    scores[0, 2] = scores[2, 0] = -torch.inf
    torch.testing.assert_close(module.loss(batch), F.cross_entropy(scores, torch.arange(4)))


def test_query_positive_and_negatives_share_one_pass_where_texts_can_be_packed(encoder):
    module = loaded(encoder)
    passes = []
    encoder.decoder.register_forward_pre_hook(lambda *_: passes.append(1))
    module.loss(contrastive_batch(encoder))
    assert encoder.packs
    assert len(passes) == 1


def test_simcse_sees_two_views_of_a_sentence(llama_folder):
    encoder = Encoder(llama_folder, lora_rank=4, lora_dropout=0.0, attention_dropout=0.3)
    module = loaded(encoder)
    view = tokens(encoder, QUERIES)
    texts = module.embed({"query": view, "positive": view})
    assert not torch.isclose(texts.queries, texts.positives, atol=1e-4).all(dim=1).any()
    similar = F.cosine_similarity(texts.queries, texts.positives)
    others = F.cosine_similarity(texts.queries, texts.positives.roll(1, 0))
    assert similar.mean() > others.mean() + 0.3


def test_simcse_without_dropout_is_an_error(encoder):
    view = tokens(encoder, QUERIES)
    with pytest.raises(UserError, match=r"Set --encoder.attention_dropout 0\.3"):
        loaded(encoder).loss({"query": view, "positive": view})


def test_views_that_differ_by_rounding_alone_are_the_same(encoder):
    """Each text's place in a batch decides how a processor adds up: it failed on another one."""
    module = loaded(encoder)
    view = tokens(encoder, QUERIES)
    embedding = encoder(view).detach()
    module._check_views({"query": view, "positive": view}, embedding, embedding + 0.1)
    module._views_checked = False
    with pytest.raises(UserError, match="have the same embedding"):
        module._check_views({"query": view, "positive": view}, embedding, embedding * (1 + 1e-6))


def test_training_brings_pairs_together(tmp_path):
    """And logs what a user wants to watch."""
    config = small_llama(hidden_size=64, num_hidden_layers=1)
    folder = str(save_model(config, tmp_path / "model"))
    module = Contrastive(Encoder(folder, lora_rank=0), learning_rate=3e-3, learn_temperature=True)
    batch = contrastive_batch(module.encoder)
    loader = DataLoader([batch] * 40, batch_size=None)
    trainer = Trainer(max_steps=40, val_check_interval=40, num_sanity_val_steps=0, **QUIET)
    trainer.validate(module, loader, verbose=False)
    before = dict(trainer.callback_metrics)
    trainer.fit(module, loader, loader)
    after = trainer.callback_metrics
    assert after["val/loss"] < 0.2 < before["val/loss"]
    assert after["val/accuracy"] == 1.0
    assert after["val/negatives"] == len(QUERIES) - 1 + len(ALL_NEGATIVES)
    assert after["train/temperature"] != pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "--model.temperature is above 0, but got 0.0"),
        ({"chunk_size": 0}, "--model.chunk_size is at least 1 text"),
        ({"symmetric": True, "in_batch_negatives": False}, "--model.symmetric true"),
        ({"matryoshka_dims": [16, 64]}, "the embedding's size, 32, but got"),
    ],
)
def test_wrong_options_are_errors_before_any_weights_are_read(encoder, options, message):
    with pytest.raises(UserError, match=message):
        Contrastive(encoder, **options)
    assert not encoder.is_loaded
