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

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import Contrastive
from llm2vec_pl.objectives.info_nce import info_nce

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
    one_by_one = lambda texts: torch.cat([encoder(encoder.tokenize([text])) for text in texts])  # noqa: E731
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
        patch.setattr("llm2vec_pl.objectives.chunks.checkpoint", lambda f, x, use_reentrant: f(x))
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
    with pytest.raises(UserError, match=r"Set `attention_dropout=0\.3`"):
        loaded(encoder).loss({"query": view, "positive": view})


@pytest.mark.parametrize("options", [{}, {"chunk_size": 3}, {"symmetric": True}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounding_makes_no_views_of_a_sentence(llama_folder, dtype, options):
    """A text's place in a batch decides how a processor adds up, in bfloat16 by a percent."""
    encoder = Encoder(llama_folder, lora_rank=0, dtype=dtype)
    view = tokens(encoder, QUERIES)
    module = Contrastive(encoder, **options)
    module.configure_model()
    forward = encoder.forward
    encoder.forward = lambda batch: forward(batch) * (1 + 0.01 * noise(len(batch["input_ids"])))
    with pytest.raises(UserError, match=r"Set `attention_dropout=0\.3`"):
        module.loss({"query": view, "positive": view})


def noise(rows):
    """Another number a row, of a source of its own."""
    return torch.rand(rows, 1, generator=torch.Generator().manual_seed(1))


def test_numbers_that_are_drawn_for_nothing_make_no_views(encoder):
    """As OPT does in training mode, whatever its layerdrop."""
    module = loaded(encoder)
    encoder.decoder.register_forward_pre_hook(lambda *_: torch.rand(1) and None)
    view = tokens(encoder, QUERIES)
    with pytest.raises(UserError, match="have the same embedding"):
        module.loss({"query": view, "positive": view})


def test_an_encoder_in_evaluation_mode_has_no_views(llama_folder):
    encoder = Encoder(llama_folder, lora_rank=4, lora_dropout=0.1, attention_dropout=0.3)
    module = loaded(encoder)
    encoder.eval()
    view = tokens(encoder, QUERIES)
    with pytest.raises(UserError, match=r"evaluation mode.*call train\(\)"):
        module.loss({"query": view, "positive": view})


@pytest.mark.parametrize("options", [{"lora_dropout": 0.1}, {"lora_dropout": 0.1, "dora": True}])
def test_a_new_lora_with_dropout_is_going_to_have_views(llama_folder, options):
    """It adds nothing yet."""
    encoder = Encoder(llama_folder, lora_rank=4, **options)
    module = Contrastive(encoder)
    module.configure_model()
    view = tokens(encoder, QUERIES)
    module.loss({"query": view, "positive": view})


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
        ({"temperature": 0.0}, "`temperature` is above 0, but got 0.0"),
        ({"temperature": 0.005, "learn_temperature": True}, "a `temperature` of at least 0.01"),
        ({"chunk_size": 0}, "`chunk_size` is at least 1 text"),
        ({"symmetric": True, "in_batch_negatives": False}, "`symmetric=True`"),
        ({"matryoshka_dims": [16, 64]}, "the embedding's size, 32, but got"),
    ],
)
def test_wrong_options_are_errors_before_any_weights_are_read(encoder, options, message):
    with pytest.raises(UserError, match=message):
        Contrastive(encoder, **options)
    assert not encoder.is_loaded


class Falls(Contrastive):
    """Wants a low temperature for six steps, and then a high one."""

    def loss(self, batch):
        return self.temperature.log() * (1 if self.global_step < 6 else -1)


def test_a_learned_temperature_comes_back_from_its_lowest(encoder):
    """CLIP bounds the parameter: a bound in the loss alone has no gradient beyond."""
    module = Falls(
        encoder, temperature=0.02, learn_temperature=True, learning_rate=0.5, schedule="constant",
        warmup_steps=0,
    )  # fmt: skip
    seen = []
    module.on_train_batch_end = lambda *_: seen.append(
        (module.temperature.item(), module.log_temperature.exp().item())
    )
    loader = DataLoader([contrastive_batch(encoder)] * 16, batch_size=None)
    Trainer(max_steps=16, **QUIET).fit(module, loader)
    assert min(parameter for _, parameter in seen) == pytest.approx(0.01, rel=1e-5)
    assert all(used == pytest.approx(parameter) for used, parameter in seen)
    assert seen[5][0] == pytest.approx(0.01, rel=1e-5)
    assert seen[-1][0] > 0.02


def test_a_temperature_far_below_its_bound_still_has_a_gradient(encoder):
    """As an earlier version's checkpoint may hold."""
    module = loaded(encoder, learn_temperature=True)
    module.log_temperature.data.fill_(-9.0)
    assert module.temperature.item() == pytest.approx(0.01)
    assert gradients(module, contrastive_batch(encoder))[1]["log_temperature"] != 0


def test_a_batch_without_a_negative_needs_those_of_the_batch(encoder):
    module = loaded(encoder, in_batch_negatives=False)
    batch = contrastive_batch(encoder)
    assert module.loss(batch).isfinite()
    del batch["negative"]
    with pytest.raises(UserError, match="Set `in_batch_negatives=True`"):
        module.loss(batch)
