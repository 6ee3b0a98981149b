"""What is checked before the first step changes a weight."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import override

from llm2vec_pl.bidirectional import same_expert
from llm2vec_pl.distributed import is_sharded, world
from llm2vec_pl.errors import UserError


class SelfCheck(Callback):
    """Checks that ranks begin alike, and that each trainable weight gets a gradient.

    Before the first step it prints the memory that a step needs, and how much is free.

    Raises:
        UserError: naming what differs between ranks, or the weights that the loss does not reach.
    """

    def __init__(self) -> None:
        self._done = False
        self._estimated = False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        require_same_start(pl_module)
        announce_unused(pl_module)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self._estimated:
            self._estimated = True
            announce_memory(trainer, pl_module, batch)

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if not self._done:
            self._done = True
            require_gradients(pl_module)


def announce_memory(trainer: Trainer, module: LightningModule, batch: Any) -> None:
    """Prints the estimate for a batch as large as this one, and warns if it will not fit."""
    encoder = getattr(module, "encoder", None)
    if encoder is None or not trainer.is_global_zero:
        return
    from llm2vec_pl.training.memory import (
        Step,
        estimate_of,
        free_memory,
        resident_after,
        resident_line,
        resident_now,
    )

    masks = [part["attention_mask"] for part in _parts(batch) if "attention_mask" in part]
    if not masks:
        return
    texts = sum(len(mask) for mask in masks)
    tokens = sum(int(mask.sum()) if encoder.packs else mask.numel() for mask in masks)
    chunk = getattr(module, "chunk_size", None) or texts
    step = Step(
        tokens=-(-tokens * min(chunk, texts) // texts),
        length=max(mask.shape[1] for mask in masks),
        precision=str(trainer.precision),
        labels=getattr(module, "mask_probability", 0.0),
        accumulates=chunk < texts or trainer.accumulate_grad_batches > 1,
        devices=trainer.world_size,
        sharded=is_sharded(encoder),
        device="cuda" if module.device.type == "cuda" else "cpu",
    )
    memory, free = estimate_of(encoder, step), free_memory(module.device)
    title = f"Memory for a step of {tokens:,} tokens:"
    now = resident_now() if step.device == "cpu" else None
    if now is None or memory.activations is None:
        rank_zero_info(f"{title} {memory.line(free, loaded=True)}")
        fits = memory.fits(free, loaded=True)
    else:
        states = step.tokens * encoder.config.hidden_size * 4
        about, most = resident_after(memory, now, states)
        resident = resident_line(now, about, most, free)
        rank_zero_info(f"{title} {memory.line()} for tensors; {resident}")
        fits = None if free is None else most - now <= free
    if fits is False:
        rank_zero_warn(
            "That may not fit. To save memory, set a smaller --data.batch_size, "
            "--encoder.gradient_checkpointing true, --encoder.quantization nf4 or "
            "--trainer.strategy fsdp2."
        )


def announce_unused(module: nn.Module) -> None:
    """Prints which weights the encoder has frozen because no text reaches them."""
    unused: tuple[str, ...] = getattr(getattr(module, "encoder", None), "unused", ())
    if unused:
        more = f" and {len(unused) - 3:,} more" if len(unused) > 3 else ""
        rank_zero_info(
            f"Not trained, because no text's states depend on them: {', '.join(unused[:3])}{more}."
        )


def _parts(batch: Any) -> list[dict[str, Any]]:
    """The token batches in a batch, which may be a token batch itself."""
    if not isinstance(batch, dict):
        return []
    parts = [part for part in batch.values() if isinstance(part, dict)]
    return parts or [batch]


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
