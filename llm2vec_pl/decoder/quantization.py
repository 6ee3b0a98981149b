"""Frozen weights in 4 or 8 bits, by bitsandbytes (QLoRA, Dettmers et al. 2023).

"int8_dynamic" is something else, for encoding: see `encoder/int8_dynamic.py`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from llm2vec_pl.errors import UserError

Quantization = Literal["nf4", "int8", "int8_dynamic"]
BITSANDBYTES = ("nf4", "int8")


def quantization_config(kind: Quantization, dtype: torch.dtype, device: torch.device) -> Any:
    """The configuration with which transformers quantizes weights as it reads them.

    The linear layers of the decoder are quantized, the language modelling head is not.

    Args:
        kind: "nf4" (4 bits, with double quantization) or "int8".
        dtype: of the weights that are not quantized, and of the computation on a CPU.
        device: on CUDA the 4-bit layers compute in bfloat16.

    Raises:
        UserError: if bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"`quantization={kind!r}` needs bitsandbytes, which cannot be imported ({error}). "
            "Install it: pip install bitsandbytes."
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

    On a CPU that multiplies in bfloat16, bitsandbytes rearranges the weights the first time such a
    layer runs in evaluation mode. That is faster, but it computes differently from training, goes
    silently wrong with weights that FSDP2 has gathered, and fails on narrow layers.
    """
    for module in decoder.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            vars(module)["support_avx512bf16_for_cpu"] = False
