"""Adapters that others trained: each key is used, as peft itself uses it, or an error names it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft_adapters import peft_states, train_lora
from safetensors.torch import load_file, save_file
from saved_models import save_model, small_llama
from tiny_models import tiny_causal_lm
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, OPTConfig

from llm2vec_pl.decoder.source import TINY
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.errors import UserError

IDS = torch.arange(5, 15)[None]
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
SIZES = {"vocab_size": 8192, "num_hidden_layers": 2, "num_attention_heads": 4}
OTHERS = {
    "gpt2": (GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=8192), "c_attn"),
    "opt": (OPTConfig(**SIZES, hidden_size=32, ffn_dim=64, word_embed_proj_dim=32), "q_proj"),
}


@pytest.fixture(scope="module")
def tied_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = small_llama(tie_word_embeddings=True)
    return str(save_model(config, tmp_path_factory.mktemp("models") / "tied"))


def causal(folder: str | Path, **options: object) -> Encoder:
    """A causal encoder, to be compared with the causal language model itself."""
    return Encoder(str(folder), bidirectional=False, lora_rank=0, **options).load().eval()


@torch.no_grad()
def require_peft_states(base: str, adapter: Path, part: str = "model") -> None:
    expected = peft_states(base, adapter, IDS, part)
    assert not torch.allclose(causal(base).hidden_states(BATCH), expected, atol=1e-2)
    torch.testing.assert_close(causal(adapter).hidden_states(BATCH), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"task_type": None},
        {"task_type": "CAUSAL_LM"},
        {"task_type": "CAUSAL_LM", "use_rslora": True, "use_dora": True},
        {"task_type": "CAUSAL_LM", "target_modules": r".*model\.layers\.0\.self_attn\.q_proj"},
        {"task_type": "CAUSAL_LM", "alpha_pattern": {"model.layers.0.self_attn.q_proj": 32}},
        {"task_type": "CAUSAL_LM", "bias": "lora_only", "layers_to_transform": [1]},
    ],
    ids=["no_task", "causal_lm", "dora_rslora", "regex", "pattern", "one_layer"],
)
def test_a_lora_of_a_causal_language_model_is_merged_as_peft_does(llama_folder, tmp_path, options):
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    adapter = train_lora(model, llama_folder, tmp_path / "lora", **options)
    require_peft_states(llama_folder, adapter)


@pytest.mark.parametrize("task_type", [None, "FEATURE_EXTRACTION"])
def test_a_lora_of_the_inner_decoder_is_merged_as_peft_does(llama_folder, tmp_path, task_type):
    decoder = AutoModelForCausalLM.from_pretrained(llama_folder).get_decoder()
    adapter = train_lora(decoder, llama_folder, tmp_path / "lora", task_type=task_type)
    require_peft_states(llama_folder, adapter, part="decoder")


@pytest.mark.parametrize("name", OTHERS)
def test_the_layout_is_found_whatever_the_model_calls_its_decoder(tmp_path, name):
    config, target = OTHERS[name]
    base = str(save_model(config, tmp_path / name))
    options = {"target_modules": [target], "fan_in_fan_out": name == "gpt2"}
    model = AutoModelForCausalLM.from_pretrained(base)
    adapter = train_lora(model, base, tmp_path / "lora", task_type="CAUSAL_LM", **options)
    require_peft_states(base, adapter)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"trainable_token_indices": [5, 6]},
    ],
    ids=["head", "embedding", "saved", "tokens"],
)
@torch.no_grad()
def test_what_an_adapter_says_of_head_and_embedding_is_used(tied_folder, tmp_path, options):
    """peft's own merge of one of the two changes the other too, where they are tied."""
    model = AutoModelForCausalLM.from_pretrained(tied_folder)
    adapter = train_lora(model, tied_folder, tmp_path / "lora", task_type="CAUSAL_LM", **options)
    encoder = causal(adapter)
    model = AutoModelForCausalLM.from_pretrained(tied_folder)
    expected = PeftModel.from_pretrained(model, adapter).eval()(input_ids=IDS).logits
    logits = encoder.logits(encoder.hidden_states(BATCH))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    reopened = causal(save_encoder(encoder, tmp_path / "saved"))
    again = reopened.logits(reopened.hidden_states(BATCH))
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-4)


def test_weights_that_have_no_place_are_named(llama_folder, tmp_path):
    decoder = AutoModelForCausalLM.from_pretrained(llama_folder).get_decoder()
    adapter = train_lora(decoder, llama_folder, tmp_path / "lora")
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    for part in ("A", "B"):
        weights[f"base_model.model.layers.7.self_attn.q_proj.lora_{part}.weight"] = torch.ones(4, 4)
    save_file(weights, file)
    with pytest.raises(UserError, match=r"no place for 2 of its 14 weights.*layers\.7\.self_attn"):
        causal(adapter)


def test_an_adapter_without_a_tokenizer_takes_the_one_of_its_base(llama_folder, tmp_path):
    decoder = AutoModelForCausalLM.from_pretrained(llama_folder).get_decoder()
    adapter = train_lora(decoder, llama_folder, tmp_path / "lora")
    for file in adapter.glob("tokenizer*"):
        file.unlink()
    assert Encoder(str(adapter)).source.tokenizer == llama_folder


def test_an_adapter_as_a_pickle_is_refused_before_anything_is_read(llama_folder, tmp_path):
    decoder = AutoModelForCausalLM.from_pretrained(llama_folder).get_decoder()
    adapter = train_lora(decoder, llama_folder, tmp_path / "lora")
    file = adapter / "adapter_model.safetensors"
    torch.save(load_file(file), adapter / "adapter_model.bin")
    file.unlink()
    for arguments in ({"model_name": str(adapter)}, {"adapters": [str(adapter)]}):
        with pytest.raises(UserError, match=r"has no adapter_model\.safetensors.*save it again"):
            Encoder(**{"model_name": llama_folder, **arguments})


def test_full_weights_are_no_adapter(llama_folder):
    with pytest.raises(UserError, match="`adapters`: .* is not an adapter"):
        Encoder(llama_folder, adapters=[llama_folder])


@pytest.mark.parametrize("model_type", ["laguna", "qwen2_moe"])
@torch.no_grad()
def test_our_own_lora_on_shared_experts_comes_back(tmp_path, model_type):
    """peft takes such names for those of experts, or of an earlier transformers."""
    base = tmp_path / "model"
    tiny_causal_lm(model_type).save_pretrained(base)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(base)
    options = {"lora_rank": 2, "lora_dropout": 0.0, "padding_free": False}
    encoder = Encoder(str(base), **options).load().eval()
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    expected = encoder.hidden_states(BATCH)
    folder = save_encoder(encoder, tmp_path / "saved")
    reopened = Encoder.from_pretrained(folder, dtype="float32", padding_free=False)
    torch.testing.assert_close(reopened.hidden_states(BATCH), expected, atol=1e-5, rtol=1e-4)


def test_an_adapter_named_without_those_below_it_is_refused(llama_folder, tmp_path):
    one = save_encoder(Encoder(llama_folder).load(), tmp_path / "1")
    two = save_encoder(Encoder(str(one)).load(), tmp_path / "2")
    shutil.rmtree(one)
    assert len(Encoder(str(two)).load().adapters) == 2
    with pytest.raises(UserError, match="on top of earlier ones.*`model_name`"):
        Encoder(llama_folder, adapters=[str(two)]).load()


@pytest.mark.parametrize("missing", ["lora_A", "lora_B", "magnitude", ""])
def test_an_adapter_that_lacks_weights_is_refused(llama_folder, tmp_path, missing):
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    folder = train_lora(model, llama_folder, tmp_path / "lora", use_dora=True)
    weights = load_file(folder / "adapter_model.safetensors")
    lost = next(key for key in weights if missing in key)
    kept = {key: value for key, value in weights.items() if missing and key != lost}
    save_file(kept, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights|holds no weights"):
        Encoder.from_pretrained(folder)


def test_an_adapter_whose_layers_run_several_times_is_refused(llama_folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    fan = [[0, 2], [1, 2]]
    folder = train_lora(model, llama_folder, tmp_path / "fan", layer_replication=fan)
    with pytest.raises(UserError, match="layer_replication"):
        Encoder.from_pretrained(folder)
