"""Small decoders as GGUF files, written with the package gguf as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from saved_models import small_llama
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from llm2vec_pl.decoder.source import TINY

gguf = pytest.importorskip("gguf", reason="needs the package gguf: pip install llm2vec_pl[gguf]")

CONTROL, NORMAL = 3, 1


VOCABULARY = 512  # reading a GGUF takes time for each token


def few_tokens(**changes: object) -> LlamaConfig:
    """A small Llama over the vocabulary of `few_tokens_tokenizer`."""
    return small_llama(vocab_size=VOCABULARY, **changes)


def few_tokens_qwen2() -> Qwen2Config:
    """A Qwen2 of the same sizes; its attention has biases."""
    shared = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    shared += ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    llama = few_tokens()
    return Qwen2Config(**{n: getattr(llama, n) for n in shared}, tie_word_embeddings=False)


def few_tokens_tokenizer() -> PreTrainedTokenizerFast:
    """The embedded tokenizer, with the first tokens of its vocabulary only."""
    names = json.loads((TINY / "tokenizer_config.json").read_text(encoding="utf-8"))
    special = {name: names[name] for name in ("bos_token", "eos_token", "pad_token")}
    backend = Tokenizer.from_str(json.dumps(_few_tokens()))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def _few_tokens() -> dict[str, Any]:
    tokenizer = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))
    model = tokenizer["model"]
    vocabulary = {token: i for token, i in model["vocab"].items() if i < VOCABULARY}
    merges = [m if isinstance(m, list) else m.split(" ") for m in model["merges"]]
    model["merges"] = [m for m in merges if "".join(m) in vocabulary]
    model["vocab"] = vocabulary
    return dict(tokenizer)


def write_gguf(
    config: PretrainedConfig,
    file: Path,
    kind: str = "F32",
    entries: dict[str, Any] | None = None,
) -> Any:
    """Writes a decoder with random weights and the tokenizer of `few_tokens_tokenizer`.

    Args:
        config: of a Llama or a Qwen2.
        file: where to.
        kind: ggml's number format of the matrices; vectors stay in float32.
        entries: metadata to add or replace, by name: texts, flags or whole numbers.

    Returns:
        The model as it was before its weights were rounded.
    """
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # vectors too, which begin as 0 or 1
    writer = gguf.GGUFWriter(file, config.model_type)
    _describe(writer, config)
    _add_tokenizer(writer, entries or {})
    number = gguf.GGMLQuantizationType[kind]
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[config.model_type.upper()], config.num_hidden_layers
    )
    for name, weight in model.state_dict().items():
        values = weight.numpy()
        if config.model_type == "llama" and ("q_proj" in name or "k_proj" in name):
            is_query = "q_proj" in name
            heads = config.num_attention_heads if is_query else config.num_key_value_heads
            values = _interleaved(values, heads)
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if values.ndim < 2 or kind == "F32":
            writer.add_tensor(place, np.ascontiguousarray(values, dtype=np.float32))
        else:
            writer.add_tensor(place, gguf.quantize(values, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model.eval()


def _describe(writer: Any, config: PretrainedConfig) -> None:
    writer.add_name("a small model")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: Any, entries: dict[str, Any]) -> None:
    tokenizer = _few_tokens()
    ids = tokenizer["model"]["vocab"] | {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    special = {t["content"] for t in tokenizer["added_tokens"]}
    tokens = sorted(ids, key=ids.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if t in special else NORMAL for t in tokens])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    numbers = {"bos": "<s>", "eos": "</s>", "padding": "<pad>"}
    known = {f"tokenizer.ggml.{key}_token_id": ids[token] for key, token in numbers.items()}
    defaults = {"tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.add_bos_token": True}
    for key, value in (defaults | known | entries).items():
        if value is None:
            continue
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)


def _interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order that llama.cpp's rotation wants (`permute` in its converter)."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)
