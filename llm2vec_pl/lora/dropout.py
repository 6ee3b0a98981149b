"""A LoRA's dropout that costs little time on a CPU and little memory anywhere.

PyTorch's dropout draws a random number for each element of its input, one by one on a CPU, where
this takes as long as the adapted layer itself. For the backward pass it keeps a mask and an output
for each layer, though query, key and value have the same input. Here only the places of dropped
elements are drawn, the input is kept once for all layers that share it, and the output is computed
again from the two. In half precision the input is kept as it is, not in the LoRA's float32.
"""

from __future__ import annotations

from math import log1p
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable


def fuse_dropout(decoder: nn.Module) -> None:
    """Moves the dropout of each adapter into its first matrix.

    Args:
        decoder: as peft has wrapped it; not with DoRA, whose base layer sees the dropped input too.
    """
    layer: Any
    for layer in decoder.modules():
        for name, dropout in getattr(layer, "lora_dropout", {}).items():
            matrix = layer.lora_A[name] if name in layer.lora_A else None  # noqa: SIM401
            p = getattr(dropout, "p", 0.0)
            if type(matrix) is nn.Linear and p < 1:
                layer.lora_A[name] = DroppedLinear(matrix, p)
                layer.lora_dropout[name] = nn.Identity()
                layer.cast_input_dtype_enabled = False  # peft's makes a copy for each layer


class DroppedLinear(nn.Linear):
    """x -> dropout(x) W^T, without a bias.

    Args:
        linear: the layer whose weight is used, (R, D).
        p: the probability of dropping an element of x, below 1.
    """

    def __init__(self, linear: nn.Linear, p: float) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = linear.weight
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) in any dtype -> (..., R), in the weight's dtype or autocast's."""
        kind = x.device.type
        autocast = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if autocast else self.weight.dtype
        if not self.training:
            return F.linear(x.to(dtype), self.weight.to(dtype))
        product: Tensor = _DropAndMultiply.apply(x, self.weight, self.p, dtype)  # type: ignore[no-untyped-call]
        return product


class _DropAndMultiply(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor, p: float, dtype: torch.dtype
    ) -> Tensor:
        dropped = draw(x, p)
        ctx.save_for_backward(x, weight, dropped)
        ctx.dtype, ctx.scale = dtype, 1 / (1 - p)  # type: ignore[attr-defined]
        product: Tensor = F.linear(_left(x, dropped, dtype), weight.to(dtype))
        return product.mul_(ctx.scale)  # type: ignore[attr-defined]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, dropped = ctx.saved_tensors  # type: ignore[attr-defined]
        gradient = gradient.to(ctx.dtype) * ctx.scale  # type: ignore[attr-defined]  # (..., R)
        of_weight = of_input = None
        if ctx.needs_input_grad[1]:  # type: ignore[attr-defined]
            left = _left(x, dropped, gradient.dtype)
            of_weight = gradient.flatten(0, -2).T @ left.flatten(0, -2)  # (R, D)
            of_weight = of_weight.to(weight.dtype)
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            of_input = gradient @ weight.to(gradient.dtype)  # (..., D)
            of_input.view(-1).index_fill_(0, dropped, 0.0)
            of_input = of_input.to(x.dtype)
        return of_input, of_weight, None, None


def draw(x: Tensor, p: float) -> Tensor:
    """The places of dropped elements in the flattened x, some of them more than once.

    With this many draws, an element is spared with probability 1 - p, up to an error of 1 / size.
    """
    count = round(-log1p(-p) * x.numel())
    return torch.randint(max(1, x.numel()), (count,), device=x.device)


def _left(x: Tensor, dropped: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of x with the dropped elements set to 0."""
    if not len(dropped):
        return x.to(dtype)
    left = x.to(dtype, copy=True, memory_format=torch.contiguous_format)
    left.view(-1).index_fill_(0, dropped, 0.0)
    return left
