"""Decoders of a named shape with random weights: speed and memory do not depend on the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

Shape = Literal["135M", "1B", "8B"]

# Well-known models with the Llama architecture: SmolLM2-135M, Llama-3.2-1B, Llama-3-8B.
SHAPES = {
    "135M": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49_152,
        "tie_word_embeddings": True,
    },
    "1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "tie_word_embeddings": True,
    },
    "8B": {
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "tie_word_embeddings": False,
    },
}


def save_random_model(shape: Shape, vocabulary: int | None, folder: Path) -> None:
    """Writes a model of a shape for transformers, in bfloat16, with the embedded tokenizer.

    Args:
        shape: one of `SHAPES`.
        vocabulary: number of tokens, instead of the shape's own.
        folder: the folder to write to.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    from llm2vec_pl.encoder import Encoder

    numbers: dict[str, Any] = dict(SHAPES[shape])
    if vocabulary:
        numbers["vocab_size"] = vocabulary
    tokenizer = Encoder("tiny").tokenizer
    config = LlamaConfig(
        **numbers,
        max_position_embeddings=8192,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
