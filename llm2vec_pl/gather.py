"""Rows of all ranks as one tensor, with exact gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def world() -> tuple[int, int]:
    """The rank of this process, and how many there are; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def row_counts(*tensors: Tensor) -> list[list[int]]:
    """How many rows each tensor has on each rank: counts[rank][tensor]."""
    own = torch.tensor([len(tensor) for tensor in tensors], device=tensors[0].device)
    if world() == (0, 1):
        return [own.tolist()]
    counts = [torch.empty_like(own) for _ in range(world()[1])]
    dist.all_gather(counts, own)
    return torch.stack(counts).tolist()  # type: ignore[no-any-return]


def gather_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """The rows of all ranks, in the order of the ranks.

    The gradient of what other ranks make of these rows comes back to them. Each rank's loss over
    its own queries, averaged over ranks as DDP and FSDP do with gradients, then has the gradient
    of one process with the whole batch.

    Args:
        rows: this rank's, (R, ...).
        counts: how many rows each rank has.
    """
    if len(counts) == 1:
        return rows
    # Collectives want one size on all ranks.
    padding = [0, 0] * (rows.dim() - 1) + [0, max(counts) - len(rows)]
    parts = _AllGather.apply(F.pad(rows, padding).contiguous())  # type: ignore[no-untyped-call]
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class _AllGather(torch.autograd.Function):
    """The tensors of all ranks, stacked; the backward pass adds up what each rank made of them."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows)
        return torch.stack(parts)  # (W, R, ...)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]
