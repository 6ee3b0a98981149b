"""What this machine's processor is good at."""

from __future__ import annotations

import platform

import torch


def multiplies_in_bfloat16() -> bool:
    """Whether the CPU multiplies matrices in bfloat16 by instructions of its own.

    AVX-512 BF16 or AMX on x86, BF16 on ARM. Elsewhere torch computes in float32 and casts, so
    that bfloat16 saves memory but no time.
    """
    if not torch.backends.mkldnn.is_available():  # oneDNN, through which torch uses them
        return False
    if platform.machine().lower() in ("aarch64", "arm64"):
        # On x86 this says yes to any AVX-512, which only emulates it.
        return _ask(torch.ops.mkldnn, "_is_mkldnn_bf16_supported")
    return any(
        _ask(torch.cpu, name) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def _ask(place: object, question: str) -> bool:
    """The answer of a function that another version of torch may not have."""
    try:
        return bool(getattr(place, question)())
    except (AttributeError, RuntimeError):
        return False
