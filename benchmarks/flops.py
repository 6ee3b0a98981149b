"""How much arithmetic some work needs, and how fast the machine is at it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from llm2vec_pl.encoder import Encoder, Int8Linear

# Dense bfloat16 peaks in FLOP/s, from NVIDIA's data sheets.
PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}


def model_flops(encoder: Encoder, lengths: Sequence[int], predicted: int, training: bool) -> float:
    """FLOPs that the model needs for some texts: none for padding, nothing computed twice.

    Twice the weights of the linear layers for each token, and 4 L^2 H E per layer for attention
    with H heads of size E (Chowdhery et al. 2022, appendix B). The backward pass costs as much
    again for the gradients of the states, and for those of the trained weights.

    Args:
        encoder: a loaded encoder.
        lengths: number of tokens of each text.
        predicted: number of tokens whose logits are computed.
        training: whether there is a backward pass.
    """
    tokens = sum(lengths)
    layers = [m for m in encoder.decoder.modules() if isinstance(m, (nn.Linear, Int8Linear))]
    config: Any = encoder.config
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    linear = 2 * tokens * sum(layer.in_features * layer.out_features for layer in layers)
    attention = 4 * sum(n * n for n in lengths) * heads * size * config.num_hidden_layers
    head = 2 * predicted * config.hidden_size * config.vocab_size
    if not training:
        return float(linear + attention + head)
    weights = [layer.weight for layer in layers if isinstance(layer, nn.Linear)]
    trained = 2 * tokens * sum(weight.numel() for weight in weights if weight.requires_grad)
    return float(2 * linear + trained + 3 * attention + 2 * head)


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of the device: from the data sheet for a known GPU, else measured on matrices."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
        known = next((rate for gpu, rate in PEAKS.items() if gpu in name), None)
        if known is not None and dtype != torch.float32:
            return known
    size = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / statistics.median(_seconds(a, b) for _ in range(10))


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    started = time.perf_counter()
    (a @ b)[0, 0].item()  # waits for a GPU
    return time.perf_counter() - started
