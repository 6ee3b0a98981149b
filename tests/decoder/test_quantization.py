"""Frozen weights in 4 or 8 bits, and in bfloat16: what is rounded, and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from contrastive_texts import QUERIES, contrastive_batch
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from saved_models import save_model, small_llama

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
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


def shaken(encoder: Encoder) -> Encoder:
    """With a new LoRA that does something."""
    for name, parameter in encoder.load().named_parameters():
        if "lora_B" in name and parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return encoder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_what_was_trained_on_quantized_weights_comes_back_on_them(folder, tmp_path, kind, dtype):
    """Merged into others, or before they are rounded, it would not be what was validated."""
    options = {"lora_rank": 4, "quantization": kind, "dtype": dtype}
    expected = shaken(first := Encoder(folder, **options)).encode(QUERIES)
    one = save_encoder(first, tmp_path / "1")
    reopened = Encoder.from_pretrained(one)
    assert (reopened.quantization, reopened.dtype) == (kind, dtype)
    torch.testing.assert_close(reopened.encode(QUERIES), expected)
    again = save_encoder(reopened, tmp_path / "again")
    torch.testing.assert_close(Encoder.from_pretrained(again).encode(QUERIES), expected)

    second = Encoder(str(one), **options).load()
    torch.testing.assert_close(second.encode(QUERIES), expected)
    expected = shaken(second).encode(QUERIES)
    two = save_encoder(second, tmp_path / "2")
    torch.testing.assert_close(Encoder.from_pretrained(two).encode(QUERIES), expected)
    trained = {name for name, p in second.named_parameters() if p.requires_grad}
    assert all(".default." in name for name in trained)
    assert len(trained) == 28


def test_no_quantization_merges_into_full_precision(folder, tmp_path):
    encoder = shaken(Encoder(folder, lora_rank=4, quantization="nf4"))
    saved = save_encoder(encoder, tmp_path / "1")
    with pytest.warns(UserWarning, match=r"trained on weights in nf4.*`quantization='nf4'`"):
        whole = Encoder.from_pretrained(saved, quantization=None, dtype="float32")
    assert {type(m).__name__ for m in whole.decoder.modules()}.isdisjoint({"Linear4bit"})
    cosines = torch.cosine_similarity(whole.encode(QUERIES), encoder.encode(QUERIES))
    assert 0.9 < cosines.min() < 0.99999
    full = shaken(Encoder(str(saved), lora_rank=4))
    last = save_encoder(full, tmp_path / "2")
    reopened = Encoder.from_pretrained(last, dtype="float32")
    assert reopened.quantization is None
    torch.testing.assert_close(reopened.encode(QUERIES), full.encode(QUERIES), atol=1e-5, rtol=1e-4)


def test_a_full_precision_stage_below_is_merged_before_the_weights_are_rounded(stage, tmp_path):
    encoder = shaken(Encoder(stage, lora_rank=4, quantization="nf4"))
    saved = save_encoder(encoder, tmp_path / "next")
    config = json.loads((saved / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == encoder.source.base  # and no folder of the cache
    reopened = Encoder.from_pretrained(saved)
    torch.testing.assert_close(reopened.encode(QUERIES), encoder.encode(QUERIES))


def test_a_folder_from_before_quantization_was_recorded_has_it_in_its_lineage(folder, tmp_path):
    encoder = shaken(Encoder(folder, lora_rank=4, quantization="nf4"))
    flags = {"config": {"encoder": {"quantization": "nf4", "lora_rank": 4}}}
    saved = save_encoder(encoder, tmp_path / "saved", flags)
    file = saved / "llm2vec_config.json"
    settings = json.loads(file.read_text())
    del settings["quantization"]
    file.write_text(json.dumps(settings))
    reopened = Encoder.from_pretrained(saved)
    torch.testing.assert_close(reopened.encode(QUERIES), encoder.encode(QUERIES))


def test_training_goes_on_with_the_new_lora_only(folder, tmp_path):
    one = save_encoder(shaken(Encoder(folder, lora_rank=4, quantization="nf4")), tmp_path / "1")
    objective = Contrastive(Encoder(str(one), lora_rank=4, quantization="nf4"))
    fit(objective, precision="bf16-true")
    encoder = objective.encoder
    earlier = {n: p for n, p in encoder.named_parameters() if ".earlier_0." in n}
    assert {p.dtype for p in earlier.values()} == {torch.float32}
    saved = load_file(one / "adapter_model.safetensors")
    for name, parameter in earlier.items():
        key = name.removeprefix("decoder.").replace(".earlier_0", "")
        assert torch.equal(parameter, saved[key])
    two = save_encoder(encoder, tmp_path / "2")
    torch.testing.assert_close(
        Encoder.from_pretrained(two).encode(QUERIES), encoder.encode(QUERIES)
    )


def test_evaluation_between_steps_changes_no_4_bit_weights(folder):
    """On a CPU that multiplies in bfloat16, bitsandbytes would lay them out anew."""
    encoder = Encoder(folder, lora_rank=4, lora_dropout=0.0, quantization="nf4").load()
    batch = encoder.tokenize(QUERIES)
    before = encoder(batch)
    encoder.encode(QUERIES)
    assert torch.equal(encoder(batch), before)


def test_training_quantized_weights_themselves_is_refused(folder):
    objective = Contrastive(Encoder(folder, lora_rank=0, quantization="nf4"))
    with pytest.raises(UserError, match=r"lora_rank\S* above 0"):
        fit(objective)


def test_random_weights_are_not_quantized(folder):
    with pytest.raises(UserError, match="`quantization='nf4'`"):
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
