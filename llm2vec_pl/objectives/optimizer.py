"""AdamW, fused if possible; and Muon and AdamW as one optimizer for Lightning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from llm2vec_pl.objectives.muon import Muon

FUSED_ON = ("cpu", "cuda")


def adamw(groups: Iterable[dict[str, Any]], **options: Any) -> Optimizer:
    """AdamW, fused if possible: one kernel updates many weights.

    `fused` is set for each group, not for the optimizer: torch would otherwise let the optimizer
    undo the scaling of gradients (16-mixed), too late to clip them, and Lightning refuses that.

    Args:
        groups: groups of parameters, on the device that they are trained on.
        options: further arguments of `torch.optim.AdamW`.
    """
    fused = [{**group, "fused": can_fuse(group["params"]) or None} for group in groups]
    return torch.optim.AdamW(fused, **options)


def set_rates(scheduler: Any) -> None:
    """Sets the groups' learning rates to those of a schedule at its current step.

    Args:
        scheduler: any scheduler; one whose rates are not a function of its step has no effect.
    """
    if isinstance(scheduler, LambdaLR):
        groups = scheduler.optimizer.param_groups
        for group, rate, factor in zip(
            groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = rate * factor(scheduler.last_epoch)


def can_fuse(parameters: Sequence[Tensor]) -> bool:
    """Whether a kernel exists for these; there is none for a mix of sharded and whole weights."""
    sharded = {isinstance(p, DTensor) for p in parameters}
    known = all(p.is_floating_point() and p.device.type in FUSED_ON for p in parameters)
    return known and len(sharded) == 1


class Chain(Optimizer):
    """Steps several optimizers one after the other, each on its own parameters.

    Args:
        optimizers: optimizers of different parameters.
    """

    def __init__(self, optimizers: list[Optimizer]) -> None:
        self.optimizers = optimizers
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        super().__init__([{**group} for group in groups], {})
        # The same objects as the members' groups, so that a scheduler's learning rate reaches them.
        self.param_groups = groups

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of each, after one evaluation of the closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The members' states."""
        return {"chain": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the members' states."""
        for optimizer, state in zip(self.optimizers, state_dict["chain"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = [group for each in self.optimizers for group in each.param_groups]


def muon_and_adamw(module: nn.Module, learning_rate: float, weight_decay: float) -> Optimizer:
    """Muon (Jordan et al. 2024) on the matrices between embedding and head, AdamW on the rest.

    Muon's updates are scaled to AdamW's root mean square (Liu et al. 2025), so that one learning
    rate serves both.

    Args:
        module: the module whose trainable parameters are optimized.
        learning_rate: learning rate of both.
        weight_decay: weight decay of the matrices.
    """
    embedded = {
        id(p) for m in module.modules() if isinstance(m, nn.Embedding) for p in m.parameters()
    }
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            hidden = parameter.ndim == 2 and id(parameter) not in embedded and "lm_head" not in name
            (matrices if hidden else rest).append(parameter)
    # Either may be empty: a LoRA has matrices only.
    optimizers: list[Optimizer] = []
    if matrices:
        optimizers.append(Muon(matrices, learning_rate, weight_decay))
    if rest:
        groups = [{"params": rest, "weight_decay": 0.0}]
        optimizers.append(adamw(groups, lr=learning_rate, betas=(0.9, 0.95)))
    return Chain(optimizers)
