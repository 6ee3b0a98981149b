"""Linear layers in int8 with activations quantized as they come, to encode on a CPU."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
import warnings

import pytest
import torch
from contrastive_texts import QUERIES, contrastive_batch
from lightning.pytorch import Trainer
from saved_models import save_model, small_llama
from torch import nn
from transformers import GPT2Config

from benchmarks.flops import model_flops
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.encoder.int8_dynamic import Int8Linear, require_quantizable, round_layers
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import Contrastive

INT8 = {"quantization": "int8_dynamic", "lora_rank": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = small_llama(hidden_size=64, intermediate_size=128)
    return str(save_model(config, tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture
def stage(folder, tmp_path) -> str:
    """A stage that has trained an adapter on the model."""
    encoder = Encoder(folder, lora_rank=4).load()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return str(save_encoder(encoder, tmp_path / "stage"))


def linear_layers(module: nn.Module) -> set[type[nn.Module]]:
    return {type(m) for m in module.modules() if isinstance(m, (nn.Linear, Int8Linear))}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("vnni", [True, False])
def test_a_layer_gives_nearly_what_it_gave(bias, vnni, monkeypatch):
    """With the kernels that this CPU gets, and with those of one without VNNI."""
    if not vnni:
        monkeypatch.setattr("llm2vec_pl.encoder.int8_dynamic.multiplies_in_int8", lambda: False)
    engine = torch.backends.quantized.engine
    linear, states = nn.Linear(96, 64, bias=bias), torch.randn(3, 5, 96)
    with torch.no_grad():
        output, expected = Int8Linear(linear)(states), linear(states)
    assert torch.backends.quantized.engine == engine
    assert output.shape == expected.shape
    assert torch.cosine_similarity(output, expected, dim=-1).min() > 0.999


def test_a_large_token_does_not_round_the_others_away():
    linear = nn.Linear(96, 64)
    states = torch.randn(8, 96) * torch.tensor([1e4, *[1.0] * 7])[:, None]
    with torch.no_grad():
        output, expected = Int8Linear(linear)(states), linear(states)
    assert torch.cosine_similarity(output, expected, dim=-1).min() > 0.999


def test_a_tokens_output_does_not_depend_on_the_tokens_beside_it():
    layer, states = Int8Linear(nn.Linear(96, 64)), torch.randn(7, 96)
    with torch.no_grad():
        torch.testing.assert_close(layer(states)[3:5], layer(states[3:5]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copied_layer_multiplies_as_the_first_one(copied):
    layer, states = Int8Linear(nn.Linear(96, 64)), torch.randn(7, 96)
    with torch.no_grad():
        torch.testing.assert_close(copied(layer)(states), layer(states), atol=1e-6, rtol=0)


def test_a_layer_is_packed_for_the_cpu_on_which_it_is_unpickled(monkeypatch):
    layer, states = Int8Linear(nn.Linear(96, 64)), torch.randn(7, 96)
    pickled = pickle.dumps(layer)
    monkeypatch.setattr("llm2vec_pl.encoder.int8_dynamic.multiplies_in_int8", lambda: False)
    elsewhere = pickle.loads(pickled)
    assert not elsewhere._exact
    with torch.no_grad():
        assert torch.cosine_similarity(elsewhere(states), layer(states)).min() > 0.999


def test_a_layer_of_zeros_gives_zeros():
    linear = nn.Linear(8, 4, bias=False)
    nn.init.zeros_(linear.weight)
    with torch.no_grad():
        assert Int8Linear(linear)(torch.randn(2, 8)).count_nonzero() == 0
        assert Int8Linear(nn.Linear(8, 4, bias=False))(torch.zeros(2, 8)).count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_output_has_the_dtype_of_the_input(dtype):
    layer = Int8Linear(nn.Linear(8, 4).to(dtype))
    with torch.no_grad():
        assert layer(torch.randn(2, 8, dtype=dtype)).dtype == dtype


def test_a_layer_still_tells_its_weight():
    """Some routers read the weight of a linear layer instead of calling it."""
    linear = nn.Linear(96, 64)
    step = linear.weight.abs().max() / 127
    assert (Int8Linear(linear).weight - linear.weight).abs().max() <= step / 2 + 1e-6


def test_a_layer_that_stands_in_two_places_is_rounded_once():
    shared = nn.Linear(8, 8)
    decoder = nn.ModuleDict({"a": nn.Sequential(shared, nn.ReLU()), "b": nn.Sequential(shared)})
    round_layers(decoder)
    assert isinstance(decoder["a"][0], Int8Linear)
    assert decoder["a"][0] is decoder["b"][0]


def test_rounding_warns_of_nothing(folder):
    """torch's own warning comes once a process, and is no news to a user."""
    code = "import torch; from llm2vec_pl.encoder.int8_dynamic import Int8Linear as I; I(torch.nn.Linear(8, 8))"
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True)


def test_the_decoder_is_in_int8_and_its_head_is_not(folder):
    encoder = Encoder(folder, **INT8).load()
    assert linear_layers(encoder.decoder) == {Int8Linear}
    assert type(encoder.lm_head) is nn.Linear
    assert not any(p.requires_grad for p in encoder.parameters())


def test_a_stage_opens_in_int8_and_says_how_near_it_stays(stage, capsys):
    """Its adapter is merged before the weights are rounded."""
    rounded = Encoder.from_pretrained(stage, quantization="int8_dynamic")
    lines = [line for line in capsys.readouterr().err.splitlines() if "int8_dynamic" in line]
    assert lines == [str(rounded.fidelity)]
    assert re.fullmatch(r"int8_dynamic: cosine with the float32 .* \(least 0\.99\d\)", lines[0])
    whole = Encoder.from_pretrained(stage, dtype="float32")
    cosines = torch.cosine_similarity(rounded.encode(QUERIES), whole.encode(QUERIES))
    assert cosines.min() > 0.99
    assert 0.99 < rounded.fidelity.least <= rounded.fidelity.median < 1
    assert rounded.settings() == whole.settings()


def test_the_weights_that_are_rounded_are_the_folders_own(folder, monkeypatch):
    """Not those in bfloat16 that would encode faster."""
    monkeypatch.setattr("llm2vec_pl.encoder.encoder.multiplies_in_bfloat16", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Encoder.from_pretrained(folder, quantization="int8_dynamic").dtype == "float32"


@pytest.mark.parametrize("padding_free", [True, False])
def test_batch_and_padding_change_no_embedding_in_int8(folder, padding_free):
    encoder = Encoder(folder, **INT8, padding_free=padding_free).load()
    assert encoder.packs == padding_free
    alone = torch.stack([encoder.encode(text) for text in QUERIES])
    # What is rounded the other way after another order of a sum may be a step of 1/63 apart.
    assert torch.cosine_similarity(encoder.encode(QUERIES), alone).min() > 0.9999


def test_the_benchmark_counts_the_work_of_int8_layers(folder):
    encoder = Encoder(folder, lora_rank=0).load()
    expected = model_flops(encoder, [5, 9], 0, training=False)
    assert model_flops(Encoder(folder, **INT8).load(), [5, 9], 0, training=False) == expected


def test_a_lora_is_not_trained_on_int8_dynamic(folder):
    with pytest.raises(UserError, match='`quantization="int8_dynamic"`.*`lora_rank=16`'):
        Encoder(folder, quantization="int8_dynamic")


def test_an_int8_decoder_is_not_compiled(folder):
    with pytest.raises(UserError, match="`compile=True`"):
        Encoder(folder, **INT8, compile=True)


def test_training_in_int8_is_refused(folder):
    objective = Contrastive(Encoder(folder, **INT8))
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = [contrastive_batch(objective.encoder)]
    with pytest.raises(UserError, match=r"int8_dynamic\S* is for encoding"):
        trainer.fit(objective, torch.utils.data.DataLoader(batches, batch_size=None))


def test_a_decoder_without_linear_layers_is_refused(tmp_path):
    config = GPT2Config(vocab_size=8192, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    encoder = Encoder(str(save_model(config, tmp_path / "gpt2")), **INT8)
    with pytest.raises(UserError, match="GPT2Model has none, so nothing was quantized"):
        encoder.load()
    assert not encoder.is_loaded


def test_another_device_than_a_cpu_is_refused(folder):
    with pytest.raises(UserError, match="on a CPU only, but the device is cuda:0"):
        Encoder(folder, **INT8).load(device=torch.device("cuda:0"))
    with pytest.raises(UserError, match="on a CPU only, but the device is meta"):
        Encoder(folder, **INT8).load().to("meta")


def test_a_torch_without_int8_kernels_is_refused(monkeypatch):
    monkeypatch.setattr("llm2vec_pl.encoder.int8_dynamic._has_kernels", lambda: False)
    with pytest.raises(UserError, match="no int8 kernels"):
        require_quantizable(nn.Sequential(nn.Linear(2, 2)), None, torch.device("cpu"))


def test_an_int8_encoder_is_not_saved(folder, tmp_path):
    with pytest.raises(UserError, match="is not saved"):
        save_encoder(Encoder(folder, **INT8).load(), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_int8_survives_a_change_of_mode(folder):
    encoder = Encoder(folder, **INT8).load()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(encoder.train().encode(QUERIES), encoder.eval().encode(QUERIES))
