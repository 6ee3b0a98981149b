"""Step 1: what `make_bidirectional` does to a model, and what `check_bidirectional` sees."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_causal_lm, tiny_config
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PreTrainedModel,
)

from llm2vec_pl.bidirectional.probe import token_influence
from llm2vec_pl.bidirectional.switch import (
    BidirectionalityError,
    accepts_position_ids,
    check_bidirectional,
    make_bidirectional,
    position_ids,
    probe_inputs,
)
from llm2vec_pl.decoder.head import split_causal_lm
from llm2vec_pl.decoder.layers import decoder_layers


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny matrices are ten times slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def decoder(
    model_type: str = "llama", attention: str = "sdpa", **overrides: object
) -> PreTrainedModel:
    """A tiny decoder, still causal."""
    return split_causal_lm(tiny_causal_lm(model_type, attention, **overrides))[0]


def influences(model: torch.nn.Module, length: int = 8) -> list[Tensor]:
    """For each layer, which token (rows) sees which (columns): (L, L)."""
    mask = torch.ones(length, dtype=torch.long)
    run = lambda: model(**probe_inputs(model, mask), use_cache=False)  # noqa: E731
    return list(token_influence(run, decoder_layers(model), length).values())


@torch.no_grad()
def first_state(model: PreTrainedModel, last_token: int) -> Tensor:
    """The state of the first token of a text that ends in `last_token`: (D,)."""
    return model(torch.tensor([[5, 6, 7, last_token]]), use_cache=False).last_hidden_state[0, 0]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_first_token_sees_the_last(attention: str) -> None:
    model = decoder(attention=attention)
    assert first_state(model, 8).equal(first_state(model, 9))
    make_bidirectional(model)
    assert not first_state(model, 8).allclose(first_state(model, 9))


def test_a_causal_model_beside_it_stays_causal() -> None:
    before = [decoder(kind, "eager") for kind in ("llama", "gpt_neo", "mistral", "llama4_text")]
    states = [first_state(model, 8) for model in before]
    for model in before:
        make_bidirectional(copy.deepcopy(model))
    for model, state in zip(before, states, strict=True):
        assert first_state(model, 8).equal(state)
        assert first_state(model, 9).equal(state)


def test_models_that_share_a_configuration_do_not_share_the_switch() -> None:
    config = tiny_config("llama")
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    one, other = (type(decoder())(config).eval() for _ in range(2))
    make_bidirectional(one)
    assert one.config is not config
    assert all(layer.self_attn.config is one.config for layer in one.layers)
    assert not hasattr(config, "is_causal")
    assert first_state(other, 8).equal(first_state(other, 9))


def test_importing_the_module_changes_nothing_in_transformers() -> None:
    code = (
        "from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as masks;"
        "before = dict(masks);"
        "import llm2vec_pl.bidirectional.switch;"
        "assert dict(masks) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_twice_is_as_good_as_once() -> None:
    model = make_bidirectional(decoder("mistral", window=4))
    once = [influence.clone() for influence in influences(model, 16)]
    twice = influences(make_bidirectional(model), 16)
    assert all(a.equal(b) for a, b in zip(once, twice, strict=True))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("model_type", ["mistral", "gemma3_text", "gpt_neo"])
def test_sliding_window_is_symmetric(model_type: str, attention: str) -> None:
    if model_type == "gpt_neo" and attention == "sdpa":
        pytest.skip("gpt_neo has no sdpa attention")
    model = make_bidirectional(decoder(model_type, attention, window=4))
    i = torch.arange(16)
    assert any(influence.equal((i[:, None] - i).abs() <= 3) for influence in influences(model, 16))


@pytest.mark.parametrize("model_type", ["mixtral", "phi3", "starcoder2"])
def test_an_optional_sliding_window_is_symmetric(model_type: str) -> None:
    model = make_bidirectional(decoder(model_type, sliding_window=4))
    i = torch.arange(16)
    assert all(influence.equal((i[:, None] - i).abs() <= 3) for influence in influences(model, 16))


def test_chunks_are_bidirectional_inside() -> None:
    model = make_bidirectional(decoder("llama4_text", window=4))
    chunk = torch.arange(16) // 4
    assert any(influence.equal(chunk[:, None] == chunk) for influence in influences(model, 16))


@pytest.mark.parametrize("model_type", ["mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"])
def test_recurrent_models_are_refused_with_a_reason(model_type: str) -> None:
    model = tiny_causal_lm(model_type)
    with pytest.raises(ValueError, match=f"{model_type}.*from left to right.*Choose"):
        make_bidirectional(model)
    assert getattr(model.config, "is_causal", None) is None


def test_hybrids_are_warned_of_by_module() -> None:
    with pytest.warns(UserWarning, match="Qwen3NextGatedDeltaNet still read"):
        make_bidirectional(decoder("qwen3_next"))


def test_only_the_text_of_a_composite_model_is_switched() -> None:
    text = tiny_config("gemma3_text")
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=4)
    )
    make_bidirectional(model)
    inner, head = split_causal_lm(model)
    assert type(inner).__name__ == "Gemma3TextModel"
    assert head is model.lm_head
    assert model.config.text_config.is_causal is False
    assert inner.config.is_causal is False
    check_bidirectional(inner)


def test_switch_survives_saving(tmp_path: Path) -> None:
    make_bidirectional(decoder()).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).is_causal is False
    assert AutoConfig.from_pretrained(tmp_path).use_bidirectional_attention is True
    check_bidirectional(AutoModel.from_pretrained(tmp_path))


@pytest.mark.parametrize("model_type", ["gemma3_text", "gemma3n_text", "gemma4_text"])
def test_saving_twice_keeps_the_window(model_type: str, tmp_path: Path) -> None:
    config = make_bidirectional(decoder(model_type, "eager")).config
    width = config.sliding_window
    for _ in range(2):
        config.save_pretrained(tmp_path)
        config = type(config).from_pretrained(tmp_path)
    assert config.sliding_window == width


def test_position_ids_count_real_tokens() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    assert position_ids(mask).tolist() == [[0, 1, 2, 2], [0, 0, 1, 2]]


def test_position_ids_are_accepted_through_peft() -> None:
    assert accepts_position_ids(decoder("llama"))
    assert not accepts_position_ids(decoder("bloom", "eager"))
    assert accepts_position_ids(get_peft_model(decoder("llama"), lora()))
    assert not accepts_position_ids(
        get_peft_model(decoder("bloom", "eager"), LoraConfig(target_modules=["query_key_value"]))
    )


def lora() -> LoraConfig:
    return LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)


# The probe --------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_probe_finds_a_causal_model(attention: str) -> None:
    with pytest.raises(BidirectionalityError, match=r"llama.*layers\.0, layers\.1 see only"):
        check_bidirectional(decoder(attention=attention))


@pytest.mark.parametrize("model_type", ["nemotron", "stablelm"])
def test_probe_finds_silent_causality_without_padding(model_type: str) -> None:
    model = decoder(model_type)
    model.config.is_causal = False  # transformers' switch alone
    with pytest.raises(BidirectionalityError, match="without padding"):
        check_bidirectional(model)
    check_bidirectional(make_bidirectional(model))


def test_probe_finds_silent_causality_with_padding() -> None:
    model = decoder()
    for layer in model.layers:
        layer.self_attn.is_causal = False  # the other half of the switch alone
    with pytest.raises(BidirectionalityError, match="with padding on the right"):
        check_bidirectional(model)


def test_probe_names_the_one_causal_layer() -> None:
    model = make_bidirectional(decoder("gpt_neo", "eager"))
    attention = model.h[1].attn.attention
    attention.bias = attention.bias.tril()
    with pytest.raises(BidirectionalityError, match=r"h\.1 see only the tokens before"):
        check_bidirectional(model)


def test_probe_finds_padding_that_is_seen() -> None:
    model = make_bidirectional(decoder())
    forward = model.forward
    model.forward = lambda input_ids, attention_mask, use_cache, position_ids=None: forward(
        input_ids=input_ids, use_cache=use_cache
    )
    with pytest.raises(BidirectionalityError, match="see padding with padding on the right"):
        check_bidirectional(model)


def test_probe_looks_through_peft() -> None:
    causal = get_peft_model(decoder(), lora())
    with pytest.raises(BidirectionalityError):
        check_bidirectional(causal)
    check_bidirectional(get_peft_model(make_bidirectional(decoder()), lora()))


def test_probe_works_on_frozen_bfloat16_weights_with_checkpointing() -> None:
    model = make_bidirectional(decoder()).to(torch.bfloat16).requires_grad_(False)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    with torch.inference_mode():
        check_bidirectional(model)


def test_probe_leaves_no_trace() -> None:
    model = make_bidirectional(decoder()).train()
    model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    check_bidirectional(model)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.get_rng_state().equal(state)


def test_probe_accepts_the_causal_branch_of_a_hybrid() -> None:
    with pytest.warns(UserWarning, match="hybrid"):
        model = make_bidirectional(decoder("qwen3_next"))
    check_bidirectional(model)
