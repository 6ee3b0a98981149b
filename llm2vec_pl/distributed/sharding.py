"""FSDP2: each rank keeps a share of the decoder's weights, and gathers a layer's as it runs.

The decoder is sharded, a layer at a time, a LoRA with the weights it lies on. What lies beside the
decoder stays whole on each rank: the language modelling head, which a loss calls another number of
times on each rank, so that it must need no other rank; a token embedding that is tied to it; an
objective's own weights. Their gradients are averaged by `average_gradients`. Needs no Lightning.
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

from llm2vec_pl.decoder import decoder_layers
from llm2vec_pl.distributed.gather import between_hosts


def shard_decoder(decoder: nn.Module, lm_head: nn.Module, mesh: DeviceMesh) -> None:
    """Shards a decoder over the ranks of a mesh, in place.

    Args:
        decoder: with its LoRA and with gradient checkpointing, if any; on the CPU, on the mesh's
            device or on the meta device.
        lm_head: what shares weights with it keeps them whole.
        mesh: of one dimension, the ranks that share the weights.
    """
    whole = replicated(decoder, lm_head)
    for layer in decoder_layers(decoder).values():
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    # Not as a root does by itself: what stays gathered would be neither saved nor trained.
    fully_shard(decoder, mesh=mesh, reshard_after_forward=True, ignored_params=whole)


def replicated(decoder: nn.Module, lm_head: nn.Module) -> set[nn.Parameter]:
    """The decoder's weights that each rank has whole: tied ones, scalars, int8 matrices."""
    tied = set(lm_head.parameters())
    return {
        p
        for p in decoder.parameters()
        # Layers in int8 keep their matrix in a place of their own.
        if p in tied or p.dim() == 0 or type(p).__name__ == "Int8Params"
    }


@contextmanager
def backward_within_forward(decoder: nn.Module) -> Iterator[None]:
    """Lets a hook run a backward pass through a layer while a sharded decoder runs forward.

    By itself FSDP2 gives up all gathered weights after a backward pass, those also that the rest
    of the forward pass needs.
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
    """Lets a sharded decoder run again after an exception has cut a forward pass off."""
    if isinstance(decoder, FSDPModule):
        if hasattr(decoder, "reset_iter_state"):  # torch 2.13
            decoder.reset_iter_state()
        for module in decoder.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def is_sharded(module: nn.Module) -> bool:
    """Whether any of a module's weights is shared out among ranks.

    Asked of the modules, too: while a pass has gathered weights, in another thread perhaps, they
    look like any others.
    """
    return any(isinstance(part, FSDPModule) for part in module.modules()) or any(
        isinstance(p, DTensor) for p in module.parameters()
    )


def equal_on_all_ranks(parameters: Iterable[nn.Parameter], device: torch.device) -> None:
    """Gives all ranks rank 0's values of the trainable weights that each has whole.

    Args:
        parameters: the same on all ranks, in the same order.
        device: the collective's.
    """
    for p in parameters:
        if p.requires_grad and not isinstance(p, DTensor):
            value = p.detach().to(device)
            dist.broadcast(value, src=0)
            p.data.copy_(value)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Averages, over ranks, the gradients of weights that each rank has whole.

    FSDP2 has done so with those that it has sharded. Call it once per optimizer step.

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

    Under FSDP2 a collective operation. Gradients of weights that are whole on each rank must have
    been averaged, by DDP or by `average_gradients`.

    Args:
        parameters: sharded or not; those without a gradient do not count.

    Returns:
        A plain scalar in float32; 0 without gradients, nan or inf where a gradient is.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    sharded = [g for g in gradients if isinstance(g, DTensor)]
    whole = [g for g in gradients if not isinstance(g, DTensor)]
    if not sharded:
        return _squares(whole).sqrt()
    total = _squares([local(g) for g in sharded])
    dist.all_reduce(total, group=sharded[0].device_mesh.get_group())
    if whole:
        total = total + _squares(whole).to(total.device)
    return total.sqrt()


@torch.no_grad()
def clip_gradients(
    parameters: Iterable[nn.Parameter], largest: float, algorithm: str | None = "norm"
) -> None:
    """Scales all gradients so that their norm is at most this, or cuts each off there ("value").

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

    Every rank must call it. One weight at a time exists whole on the other ranks.

    Args:
        module: the encoder's `decoder` or `causal_lm`, or an objective.
        trained_only: leave out frozen weights and buffers.

    Returns:
        By the names of `module.state_dict()`; empty on ranks other than 0.
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


def _squares(tensors: list[Tensor]) -> Tensor:
    if not tensors:
        return torch.zeros((), dtype=torch.float32)
    return torch.stack([t.float().square().sum() for t in tensors]).sum()
