"""Frozen weights in 4 or 8 bits, and in bfloat16: what is rounded, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from contrastive_texts import QUERIES, contrastive_batch
from lightning.pytorch import Trainer
from saved_models import save_model, small_llama

from llm2vec_pl.checkpoint import save_encoder
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import Contrastive


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = small_llama(hidden_size=64, intermediate_size=128)
    return str(save_model(config, tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture
def stage(folder: str, tmp_path: Path) -> str:
    """A stage that has trained an adapter on the model."""
    encoder = Encoder(folder, lora_rank=4).load()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return str(save_encoder(encoder, tmp_path / "stage"))


@pytest.mark.parametrize(("kind", "layer"), [("nf4", "Linear4bit"), ("int8", "Linear8bitLt")])
def test_the_decoder_is_quantized_and_neither_its_lora_nor_its_head(folder, kind, layer):
    encoder = Encoder(folder, lora_rank=4, quantization=kind).load()
    attention = encoder.decoder.get_base_model().layers[0].self_attn
    assert layer in [type(m).__name__ for m in attention.q_proj.modules()]
    assert type(encoder.lm_head) is torch.nn.Linear
    trained = {p.dtype for p in encoder.parameters() if p.requires_grad}
    assert trained == {torch.float32}


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_stage_opens_quantized_and_embeds_nearly_the_same(stage, kind, tmp_path, monkeypatch):
    """Its adapter is merged before the weights are rounded."""
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path / "cache"))
    quantized = Encoder.from_pretrained(stage, quantization=kind)
    whole = Encoder.from_pretrained(stage)
    cosines = torch.cosine_similarity(quantized.encode(QUERIES), whole.encode(QUERIES))
    assert cosines.min() > 0.9
    (merged,) = (tmp_path / "cache").glob("merged-*")
    assert (merged / "model.safetensors").is_file()
    assert quantized.settings() == {**whole.settings(), "quantization": kind}


def test_a_stage_of_a_quantized_encoder_is_an_adapter_that_anyone_opens(folder, tmp_path):
    encoder = Encoder(folder, lora_rank=4, quantization="nf4").load()
    saved = save_encoder(encoder, tmp_path / "saved")
    assert not (saved / "model.safetensors").exists()
    assert Encoder.from_pretrained(saved).quantization == "nf4"
    assert Encoder.from_pretrained(saved, quantization=None).quantization is None


def test_evaluation_between_steps_changes_no_4_bit_weights(folder):
    """On a CPU that multiplies in bfloat16, bitsandbytes would lay them out anew."""
    encoder = Encoder(folder, lora_rank=4, lora_dropout=0.0, quantization="nf4").load()
    batch = encoder.text(QUERIES)
    before = encoder(batch)
    encoder.encode(QUERIES)
    assert torch.equal(encoder(batch), before)


def test_training_quantized_weights_themselves_is_refused(folder):
    objective = Contrastive(Encoder(folder, lora_rank=0, quantization="nf4"))
    with pytest.raises(UserError, match="--encoder.lora_rank above 0"):
        fit(objective)


def test_random_weights_are_not_quantized(folder):
    with pytest.raises(UserError, match=r"--encoder\.quantization nf4"):
        Encoder(folder, lora_rank=0, random_weights=True, quantization="nf4")


def test_half_precision_is_for_frozen_weights_only(folder):
    encoder = Encoder(folder, lora_rank=4, dtype="float32")
    objective = Contrastive(encoder, learn_temperature=True, projection_dim=8)
    fit(objective, precision="bf16-true")
    dtypes = {name: p.dtype for name, p in objective.named_parameters()}
    frozen = {name for name, p in objective.named_parameters() if not p.requires_grad}
    assert {dtypes[name] for name in frozen} == {torch.bfloat16}
    assert {dtypes[name] for name in dtypes.keys() - frozen} == {torch.float32}
    assert {b.dtype for b in encoder.buffers()} == {torch.float32}
    assert encoder.settings()["dtype"] == "bfloat16"


def test_an_encoder_that_is_loaded_already_is_cast_as_it_is(folder):
    encoder = Encoder(folder, lora_rank=4).load()
    fit(Contrastive(encoder), precision="bf16-true")
    assert {p.dtype for p in encoder.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in encoder.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {b.dtype for b in encoder.buffers()} == {torch.float32}


def test_without_a_lora_half_precision_is_for_all_weights(folder):
    encoder = Encoder(folder, lora_rank=0)
    fit(Contrastive(encoder), precision="bf16-true")
    assert {p.dtype for p in encoder.parameters()} == {torch.bfloat16}


def fit(objective: Contrastive, **options: object) -> None:
    batches = [contrastive_batch(objective.encoder)]
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,  # type: ignore[arg-type]
    )
    trainer.fit(objective, torch.utils.data.DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
