"""FSDP2: each rank keeps a share of the decoder's weights, and gathers each layer's as it runs.

The decoder is sharded layer by layer, a LoRA together with the weights that it adapts. The rest
stays whole on each rank: the language modelling head, which a loss may call more often on one rank
than on another, so that it must not need other ranks; a token embedding that is tied to it; and an
objective's own weights. `average_gradients` averages their gradients. Needs no Lightning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from llm2vec_pl.decoder import decoder_layers
from llm2vec_pl.distributed.gather import between_hosts


def shard_decoder(decoder: nn.Module, lm_head: nn.Module, mesh: DeviceMesh) -> None:
    """Shards a decoder over the ranks of a mesh, in place.

    Args:
        decoder: with its LoRA and with gradient checkpointing, if any; on the CPU, on the mesh's
            device or on the meta device.
        lm_head: weights that the decoder shares with it stay whole.
        mesh: the ranks that share the weights, in one dimension.
    """
    whole = replicated(decoder, lm_head)
    for layer in decoder_layers(decoder).values():
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    # By default a root stays gathered, and its weights would be neither saved nor trained.
    fully_shard(decoder, mesh=mesh, reshard_after_forward=True, ignored_params=whole)


def replicated(decoder: nn.Module, lm_head: nn.Module) -> set[nn.Parameter]:
    """The decoder's weights that each rank keeps whole: tied weights, scalars, int8 matrices."""
    tied = set(lm_head.parameters())
    return {
        p
        for p in decoder.parameters()
        # int8 layers keep their matrix in a state of their own.
        if p in tied or p.dim() == 0 or type(p).__name__ == "Int8Params"
    }


@contextmanager
def backward_within_forward(decoder: nn.Module) -> Iterator[None]:
    """Lets a hook run a backward pass through a layer while a sharded decoder runs forward.

    FSDP2 would otherwise release all gathered weights after a backward pass, including those that
    the rest of the forward pass needs.
    """
    sharded = [module for module in decoder.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_backward(False, recurse=False)
    try:
        yield
    finally:
        for module in sharded:
            module.set_reshard_after_backward(True, recurse=False)
            module.reshard()


def forget_unfinished_pass(decoder: nn.Module) -> None:
    """Lets a sharded decoder run again after an exception in the middle of a forward pass."""
    if isinstance(decoder, FSDPModule):
        if hasattr(decoder, "reset_iter_state"):  # torch 2.13
            decoder.reset_iter_state()
        for module in decoder.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def is_sharded(module: nn.Module) -> bool:
    """Whether any of a module's weights is sharded over ranks.

    This looks at the modules too: while a pass has gathered the weights, perhaps in another thread,
    they look like any others.
    """
    return any(isinstance(part, FSDPModule) for part in module.modules()) or any(
        isinstance(p, DTensor) for p in module.parameters()
    )


def equal_on_all_ranks(parameters: Iterable[nn.Parameter], device: torch.device) -> None:
    """Copies rank 0's trainable weights to all ranks, except those that are sharded.

    Args:
        parameters: the same on all ranks, in the same order.
        device: where the collective operation runs.
    """
    for p in parameters:
        if p.requires_grad and not isinstance(p, DTensor):
            value = p.detach().to(device)
            dist.broadcast(value, src=0)
            p.data.copy_(value)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Averages, over ranks, the gradients of weights that each rank has whole.

    FSDP2 has already averaged those of sharded weights. Call this once per optimizer step.

    Args:
        parameters: the same on all ranks, in the same order.
    """
    whole = [p for p in parameters if p.requires_grad and not isinstance(p, DTensor)]
    if not whole or dist.get_world_size() == 1:
        return
    present = torch.tensor([p.grad is not None for p in whole]).int()
    dist.all_reduce(present, dist.ReduceOp.MAX, group=between_hosts())
    for p, somewhere in zip(whole, present.tolist(), strict=True):
        if somewhere:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            dist.all_reduce(p.grad)
            p.grad /= dist.get_world_size()


@torch.no_grad()
def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The Euclidean norm of all gradients together, equal on all ranks.

    Under FSDP2 this is a collective operation. Gradients of weights that are whole on each rank
    must have been averaged, by DDP or by `average_gradients`.

    Args:
        parameters: sharded or not; those without a gradient do not count.

    Returns:
        A plain scalar in float32; 0 without gradients, nan or inf if any gradient is.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    sharded = [g for g in gradients if isinstance(g, DTensor)]
    whole = [g for g in gradients if not isinstance(g, DTensor)]
    norms = [get_total_norm(some) for some in (sharded, whole) if some]
    norms = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    return get_total_norm([norm.float() for norm in norms])


@torch.no_grad()
def clip_gradients(
    parameters: Iterable[nn.Parameter], largest: float, algorithm: str | None = "norm"
) -> None:
    """Scales all gradients to a norm of at most `largest`, or clamps each value to it ("value").

    torch's own functions fail where some weights are sharded and some are not.
    """
    parameters = list(parameters)
    gradients = [local(p.grad) for p in parameters if p.grad is not None]
    if algorithm == "value":
        for gradient in gradients:
            gradient.clamp_(-largest, largest)
        return
    norm = gradient_norm(parameters)
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
    for gradient in gradients:
        gradient.mul_(factor.to(gradient.dtype))


def gathered_state(module: nn.Module, trained_only: bool = False) -> dict[str, Tensor]:
    """The whole weights of a module that may be sharded, on the CPU of rank 0.

    Every rank must call it. On other ranks, only one weight at a time is whole.

    Args:
        module: the encoder's `decoder` or `causal_lm`, or an objective.
        trained_only: leave out frozen weights and buffers.

    Returns:
        The weights, by their names in `module.state_dict()`; empty on ranks other than 0.
    """
    state = {}
    for name, value in _named_state(module, trained_only):
        # With a module's own `state_dict`, 4-bit layers would unpack themselves.
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if not dist.is_initialized() or dist.get_rank() == 0:
            state[name] = whole.detach().cpu()
    return state


def local(tensor: Tensor) -> Tensor:
    """A rank's own share of a tensor, which may be all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _named_state(module: nn.Module, trained_only: bool) -> Iterator[tuple[str, Any]]:
    if trained_only:
        return ((name, p) for name, p in module.named_parameters() if p.requires_grad)
    return iter(module.state_dict(keep_vars=True).items())
