"""Frozen weights in 4 or 8 bits, by bitsandbytes (QLoRA, Dettmers et al. 2023).

"int8_dynamic" is another thing, for encoding: `int8_dynamic.py`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from llm2vec_pl.errors import UserError

Quantization = Literal["nf4", "int8", "int8_dynamic"]
BITSANDBYTES = ("nf4", "int8")


def quantization_config(kind: Quantization, dtype: torch.dtype, device: torch.device) -> Any:
    """What transformers needs to quantize the weights as it reads them.

    The linear layers of the decoder are quantized, the language modelling head is not.

    Args:
        kind: "nf4", 4 bits that are quantized twice, or "int8".
        dtype: of the weights that stay as they are, and of the computation on a CPU.
        device: on CUDA the 4-bit layers compute in bfloat16.

    Raises:
        UserError: if bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--encoder.quantization {kind} needs bitsandbytes ({error}): pip install bitsandbytes."
        ) from error
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if device.type == "cuda" else dtype,
    )


def keep_unpacked(decoder: nn.Module) -> None:
    """Keeps 4-bit layers from rewriting their weights in evaluation mode on a CPU.

    Where the CPU multiplies in bfloat16, bitsandbytes lays the weights out anew the first time
    such a layer runs in evaluation mode. That is faster, but another computation than in training,
    it goes silently wrong with the gathered weights of FSDP2, and it fails on narrow layers.
    """
    for module in decoder.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False
