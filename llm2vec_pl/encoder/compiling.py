"""torch.compile, layer by layer: faster arithmetic between the matrix products.

The layers of a decoder are alike, so one of them is compiled and the others use the same code, for
batches of any shape. Masks are made outside of it, and packed texts leave it for their attention.
"""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

from llm2vec_pl.decoder import decoder_layers
from llm2vec_pl.errors import UserError

CXX = "CXX"
"""The environment variable that names a compiler, for torch too."""


def compile_layers(decoder: nn.Module) -> None:
    """Has each layer compiled when it first runs; in place.

    Args:
        decoder: with its LoRA, its shards and gradient checkpointing, if any.
    """
    for layer in decoder_layers(decoder).values():
        # Gradient checkpointing runs a layer where torch compiles nothing but what is named.
        checkpointed = getattr(layer, "gradient_checkpointing", False)
        for module in layer.children() if checkpointed else [layer]:
            module.compile(dynamic=True)


def require_compiler(device: torch.device) -> None:
    """Checks that there is a compiler: for a CPU, torch writes C++.

    Raises:
        UserError: if there is none.
    """
    names = os.environ.get(CXX, "").split()[:1] or ["g++", "clang++", "icpx", "cl"]
    if device.type == "cpu" and not any(shutil.which(name) for name in names):
        raise UserError(
            "`compile=True` needs a C++ compiler on a CPU, but there is no "
            f"{' or '.join(names)}. Install one (`apt install g++`), name yours in the environment "
            f"variable {CXX}, or leave `compile` out."
        )
