"""`bidirectional=False` is causal, whatever a folder with full weights says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft_adapters import train_lora
from saved_models import save_model, small_llama
from tiny_models import tiny_causal_lm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Gemma3TextConfig

from llm2vec_pl.bidirectional.causal import check_causal
from llm2vec_pl.bidirectional.switch import BidirectionalityError, make_bidirectional
from llm2vec_pl.decoder.source import TINY
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.objectives import CausalLM

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
EXACT = {"lora_rank": 0, "padding_free": False, "dtype": "float32"}


def full_stage(start: str, folder: Path) -> str:
    """All weights, saved bidirectional."""
    return str(save_encoder(Encoder(start, **EXACT).load(), folder))


@torch.no_grad()
def sees_later_tokens(encoder: Encoder) -> bool:
    encoder.eval()
    changed = IDS.clone()
    changed[0, -1] = 99
    before = encoder.hidden_states(BATCH)[0, 0]
    after = encoder.hidden_states({**BATCH, "input_ids": changed})[0, 0]
    return not torch.equal(before, after)


@pytest.mark.parametrize(
    "model_type", ["llama", "gemma3_text", "gemma4_text", "gpt_neo", "nemotron", "llama4_text"]
)
@torch.no_grad()
def test_a_bidirectional_folder_opens_causal_as_the_decoder_was(tmp_path, model_type):
    base = tmp_path / "base"
    tiny_causal_lm(model_type).save_pretrained(base)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(base)
    folder = full_stage(str(base), tmp_path / "full")
    expected = Encoder(str(base), bidirectional=False, **EXACT).load().eval().hidden_states(BATCH)
    encoder = Encoder(folder, bidirectional=False, **EXACT).load()
    assert not sees_later_tokens(encoder)
    torch.testing.assert_close(encoder.hidden_states(BATCH), expected)
    check_causal(encoder.decoder)
    assert sees_later_tokens(Encoder.from_pretrained(folder, **EXACT))
    assert not sees_later_tokens(Encoder.from_pretrained(folder, bidirectional=False, **EXACT))


def test_it_stays_causal_when_it_is_saved_again(llama_folder, tmp_path):
    folder = full_stage(llama_folder, tmp_path / "full")
    encoder = Encoder.from_pretrained(folder, bidirectional=False, dtype="float32")
    again = save_encoder(encoder, tmp_path / "again")
    reopened = Encoder.from_pretrained(again, dtype="float32")
    assert not reopened.bidirectional
    assert not sees_later_tokens(reopened)
    config = AutoConfig.from_pretrained(again)
    assert getattr(config, "is_causal", True) is True
    assert not getattr(config, "use_bidirectional_attention", False)


def test_a_lora_on_bidirectional_weights_opens_causal(llama_folder, tmp_path):
    folder = full_stage(llama_folder, tmp_path / "full")
    stage = save_encoder(Encoder(folder, lora_rank=4).load(), tmp_path / "lora")
    assert not sees_later_tokens(Encoder.from_pretrained(stage, bidirectional=False))
    assert sees_later_tokens(Encoder.from_pretrained(stage))
    lora = train_lora(AutoModelForCausalLM.from_pretrained(folder), folder, tmp_path / "others")
    assert not sees_later_tokens(Encoder(str(lora), bidirectional=False, **EXACT).load())


def test_random_weights_of_a_bidirectional_folder_are_causal_too(llama_folder, tmp_path):
    folder = full_stage(llama_folder, tmp_path / "full")
    encoder = Encoder(folder, bidirectional=False, random_weights=True, **EXACT).load()
    assert not sees_later_tokens(encoder)


def test_a_decoder_that_is_bidirectional_by_its_own_configuration_is_made_causal(tmp_path):
    sizes = {k: v for k, v in small_llama().to_diff_dict().items() if k.startswith(("num", "hidd"))}
    config = Gemma3TextConfig(
        **sizes,
        vocab_size=8192,
        intermediate_size=64,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=16,
        use_bidirectional_attention=True,
    )
    folder = str(save_model(config, tmp_path / "embedder"))
    assert sees_later_tokens(Encoder(folder, **EXACT).load())
    assert not sees_later_tokens(Encoder(folder, bidirectional=False, **EXACT).load())


@torch.no_grad()
def test_next_token_prediction_on_a_bidirectional_folder_does_not_see_the_answer(
    llama_folder, tmp_path
):
    folder = full_stage(llama_folder, tmp_path / "full")
    losses = []
    for name in (llama_folder, folder):
        objective = CausalLM(Encoder(name, bidirectional=False, **EXACT).load()).eval()
        losses.append(objective.loss(objective.labelled(BATCH)))
    torch.testing.assert_close(losses[1], losses[0])


def test_next_token_prediction_proves_its_decoder_causal(llama_folder):
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    check_causal(model)
    with pytest.raises(
        BidirectionalityError, match=r"llama tokens see later ones in model\.layers"
    ):
        check_causal(make_bidirectional(model))
