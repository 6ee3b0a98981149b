"""Attention over short texts by plain matrix products, for training on a CPU.

PyTorch's fused attention avoids storing the attention weights. On a CPU its backward pass takes
several times as long as two matrix products while texts are short and the precision is half: for 64
texts of 32 tokens in bfloat16, forward and backward took 82 ms against 14 ms, for 16 of 128 tokens
78 ms against 18 ms, and for 4 of 512 about the same. In float32 both take the same time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LONGEST = 128
"""In tokens: beyond it, the stored weights cost more memory than the time is worth."""


_as_on_a_gpu = False  # no ContextVar: torch.compile cannot look into one


@contextmanager
def attention_as_on_a_gpu() -> Iterator[None]:
    """Leaves short texts to PyTorch's attention, as on a GPU: for estimates made on a CPU."""
    global _as_on_a_gpu
    before, _as_on_a_gpu = _as_on_a_gpu, True
    try:
        yield
    finally:
        _as_on_a_gpu = before


def for_short_texts(attend: Callable[..., Any]) -> Callable[..., Any]:
    """An attention function of transformers', with `short_attention` where that is faster."""

    @functools.wraps(attend)
    def attend_short(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
    ) -> Any:
        if is_short(module, query, mask, **kwargs):
            scaling, dropout = kwargs.get("scaling"), kwargs.get("dropout", 0.0)
            return short_attention(query, key, value, scaling, dropout), None
        return attend(module, query, key, value, mask, **kwargs)

    return attend_short


def computed_dtype(states: Tensor) -> torch.dtype:
    """The dtype that autocast would give these: rotary angles leave queries and keys in float32."""
    kind = states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype


def is_short(
    module: nn.Module,
    query: Tensor,
    mask: Any,
    is_causal: bool | None = None,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> bool:
    """Whether `short_attention` can run this, and should.

    Args:
        module: the attention module, which says whether it is causal and in training.
        query: (N, H, L, E).
        mask: None if each token sees its whole text.
        is_causal: in place of what the module says.
        softcap: of the scores; None if they have none.
        position_bias: added to the scores; None if nothing is.
        s_aux: attention sinks; None if there are none.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    return (
        module.training
        and query.shape[2] <= LONGEST
        and query.device.type == "cpu"
        and computed_dtype(query) in (torch.bfloat16, torch.float16)
        and not _as_on_a_gpu
        and query.requires_grad
        and torch.is_grad_enabled()
        and mask is None
        and not causal
        and softcap is None
        and position_bias is None
        and s_aux is None
    )


def short_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Every token of a text attends to all of it.

    Args:
        query: H heads of size E of N texts, (N, H, L, E).
        key: (N, G, L, E), where G divides H.
        value: (N, G, L, E).
        scaling: of the scores; by default one over the root of E.
        dropout: the probability of dropping an attention weight.

    Returns:
        (N, L, H, E).
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    groups = key.shape[1]
    queries = (query * scaling).unflatten(1, (groups, -1)).flatten(2, 3)  # (N, G, H/G * L, E)
    weights = (queries @ key.transpose(-1, -2)).softmax(dim=-1)  # (N, G, H/G * L, L)
    weights = F.dropout(weights.to(value.dtype), dropout)
    output = weights @ value  # (N, G, H/G * L, E)
    of_heads: Tensor = output.unflatten(2, (-1, query.shape[2])).flatten(1, 2)  # (N, H, L, E)
    return of_heads.transpose(1, 2).contiguous()
