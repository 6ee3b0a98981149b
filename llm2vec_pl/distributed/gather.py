"""Rows of all ranks as one tensor, with exact gradients."""

from __future__ import annotations

import functools
from collections.abc import Sequence, Sized
from typing import Any

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


def between_hosts() -> dist.ProcessGroup:
    """The process group for messages between CPUs, which do not wait for any device.

    If the devices have their own group, the first call creates this one: all ranks must call it.
    """
    everyone = dist.group.WORLD
    assert everyone is not None
    return everyone if dist.get_backend() == "gloo" else _gloo_beside(everyone)


@functools.lru_cache(maxsize=1)
def _gloo_beside(group: dist.ProcessGroup) -> dist.ProcessGroup:
    made: dist.ProcessGroup = dist.new_group(backend="gloo")
    return made


class Repeated(dict[str, Any]):
    """A validation batch that does not count, so that a rank without more batches keeps in step.

    Under FSDP2, and with a loss that compares the texts of all ranks, each pass needs every rank.
    """


def row_counts(*rows: Sized) -> list[list[int]]:
    """How many rows each argument has on each rank, as counts[rank][i]; sent between CPUs."""
    own = [len(each) for each in rows]
    if world() == (0, 1):
        return [own]
    counts = [torch.empty(len(own), dtype=torch.long) for _ in range(world()[1])]
    dist.all_gather(counts, torch.tensor(own), group=between_hosts())
    return torch.stack(counts).tolist()  # type: ignore[no-any-return]


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a scalar over ranks, in float32, computed on the device without waiting for it.

    Lightning's `sync_dist` puts a barrier before each sum.
    """
    mean = value.detach().float().clone()
    if world()[1] > 1:
        dist.all_reduce(mean)
        mean /= world()[1]
    return mean


def gather_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """The rows of all ranks, in the order of the ranks.

    Gradients flow back to the rank that a row came from. If each rank computes the loss of its own
    queries, and gradients are averaged over ranks as DDP and FSDP do, the result is the gradient of
    a single process with the whole batch.

    Args:
        rows: this rank's, (R, ...).
        counts: how many rows each rank has.
    """
    if len(counts) == 1:
        return rows
    # Collectives need the same size on all ranks.
    padding = [0, 0] * (rows.dim() - 1) + [0, max(counts) - len(rows)]
    parts = _AllGather.apply(F.pad(rows, padding).contiguous())  # type: ignore[no-untyped-call]
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class _AllGather(torch.autograd.Function):
    """The tensors of all ranks, stacked; the backward pass adds up the gradients of all ranks.

    torch.distributed.nn has the same, but deprecates it in favour of a private module.
    """

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
