"""Attention spread evenly over all that is not masked: what a layer may see, not what it looks at.

An attention weight that is too small for its number format becomes zero, as if it were masked. With
large queries most weights do, above all in float16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

MASKED = -5e3
"""Scores below this are masked: masks add -1e4 or less, and no query is that far from a key."""


class EvenAttention(TorchFunctionMode):
    """While it is entered, sdpa and eager attention depend on the masks alone.

    Args:
        length: tokens of a text; softmaxes over other sizes, such as a router's, do not change.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return _evenly(func, *args, **kwargs)
        result = func(*args, **kwargs)
        if name == "softmax" and args and self._are_scores(args[0]):
            return even_weights(args[0]).to(result.dtype)
        return result

    def _are_scores(self, x: Tensor) -> bool:
        return x.dim() >= 4 and x.shape[-2] == self.length <= x.shape[-1]


def even_weights(scores: Tensor) -> Tensor:
    """The same weight for each score that is not masked, (..., L, L), in float32.

    >>> even_weights(torch.tensor([[900.0, -900.0], [1.0, -1e4]]))
    tensor([[0.5000, 0.5000],
            [1.0000, 0.0000]])
    """
    masked = scores.detach() < MASKED
    return torch.zeros_like(masked, dtype=torch.float32).masked_fill(masked, MASKED).softmax(-1)


def _evenly(attend: Any, query: Tensor, *args: Any, **kwargs: Any) -> Any:
    return attend(torch.zeros_like(query), *args, **kwargs)
