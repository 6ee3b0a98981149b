"""Small decoders on disk, with random weights and the embedded tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PretrainedConfig

from llm2vec_pl.decoder.source import TINY


def save_model(config: PretrainedConfig, folder: Path) -> Path:
    """Saves a decoder with random weights and the embedded tokenizer."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return folder


def small_llama(**changes: object) -> LlamaConfig:
    """A Llama of 0.3 M parameters over the embedded tokenizer's vocabulary."""
    sizes = {
        "vocab_size": 8192,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    }
    return LlamaConfig(**{**sizes, **changes})
