"""What is checked before the first step changes a weight."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from llm2vec_pl.bidirectional import same_expert
from llm2vec_pl.distributed import world
from llm2vec_pl.errors import UserError


class SelfCheck(Callback):
    """Checks that ranks begin alike, and that each trainable weight gets a gradient.

    Raises:
        UserError: naming what differs between ranks, or the weights that the loss does not reach.
    """

    def __init__(self) -> None:
        self._done = False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        require_same_start(pl_module)
        announce_unused(pl_module)

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if not self._done:
            self._done = True
            require_gradients(pl_module)


def announce_unused(module: nn.Module) -> None:
    """Prints which weights the encoder has frozen because no text reaches them."""
    unused: tuple[str, ...] = getattr(getattr(module, "encoder", None), "unused", ())
    if unused:
        more = f" and {len(unused) - 3:,} more" if len(unused) > 3 else ""
        rank_zero_info(
            f"Not trained, because no text's states depend on them: {', '.join(unused[:3])}{more}."
        )


def require_gradients(module: nn.Module) -> None:
    """Checks that the backward pass has reached every trainable weight.

    If experts are separate modules, some get no token in a step: one of them is enough.

    Raises:
        UserError: naming the weights without a gradient.
    """
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    if not trained:
        raise UserError("There is no trainable weight. Set --encoder.lora_rank 16, or 0 for all.")
    reached = {same_expert(name) for name, p in trained if p.grad is not None}
    without = [name for name, p in trained if p.grad is None and same_expert(name) not in reached]
    if without:
        more = f" and {len(without) - 5:,} more" if len(without) > 5 else ""
        raise UserError(
            f"{len(without):,} of {len(trained):,} trainable weights get no gradient: "
            f"{', '.join(without[:5])}{more}. The loss does not depend on them: freeze them "
            "(requires_grad_(False)) in configure_model, use them in loss(), or, if they belong to "
            "a LoRA, choose its layers with --encoder.lora_targets."
        )


def require_same_start(module: nn.Module) -> None:
    """Checks that all ranks begin with the same seed and the same weights.

    Shards differ between ranks: for these, only the number of weights is compared.

    Raises:
        UserError: on all ranks, if one differs.
    """
    _, ranks = world()
    if ranks == 1:
        return
    device = next(module.parameters()).device
    own = torch.tensor(_state(module), dtype=torch.float64, device=device)
    everyone = [torch.empty_like(own) for _ in range(ranks)]
    dist.all_gather(everyone, own)
    names = ("seed", "number of trainable weights", "sum of the trainable weights")
    for name, *values in zip(names, *(state.tolist() for state in everyone), strict=True):
        if any(value != values[0] for value in values):
            raise UserError(
                f"The ranks do not begin alike: their {name} is "
                f"{', '.join(f'{value:.9g}' for value in values)}. Use the same "
                "--seed_everything, flags, versions and data on all nodes."
            )


def _state(module: nn.Module) -> list[float]:
    trained = [p for p in module.parameters() if p.requires_grad]
    whole = [p for p in trained if type(p.data) is Tensor]
    checksum = sum((p.detach().double().sum() for p in whole), torch.zeros(()).double())
    seed = float(os.environ.get("PL_GLOBAL_SEED") or 0)
    return [seed, float(sum(p.numel() for p in trained)), float(checksum)]
