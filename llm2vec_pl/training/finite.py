"""Stops a run whose gradient is not finite, before it reaches a checkpoint."""

from __future__ import annotations

import math

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from typing_extensions import override

from llm2vec_pl.distributed import gradient_norm
from llm2vec_pl.errors import UserError
from llm2vec_pl.training.agreement import HostCopy


class FiniteGradients(Callback):
    """Logs `train/gradient_norm`, and ends a run whose norm is infinite or not a number.

    The norm is checked one step late, so that the device need not wait, and before each checkpoint.
    With `16-mixed` precision nothing is checked: its scaler skips such steps.

    Raises:
        UserError: with what to do about it.
    """

    def __init__(self) -> None:
        self._norm: HostCopy | None = None
        self._step = 0

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return
        self.check(trainer)
        norm = gradient_norm(pl_module.parameters())
        pl_module.log("train/gradient_norm", norm, batch_size=1)
        self._norm, self._step = HostCopy(norm.detach().reshape(1)), trainer.global_step + 1

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]
    ) -> None:
        self.check(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check(trainer)

    def check(self, trainer: Trainer) -> None:
        """Checks the last norm, which is the same on all ranks."""
        if self._norm is None:
            return
        (norm,) = self._norm.read()
        if math.isfinite(norm):
            return
        self._norm = None
        loss = trainer.callback_metrics.get("train/loss", torch.tensor(torch.nan))
        raise UserError(
            f"The gradient of step {self._step:,} is not finite (its norm is {norm}, the loss "
            f"{float(loss):.4g}). Set a lower --model.learning_rate, a longer "
            "--model.warmup_steps or --trainer.gradient_clip_val 1.0; with fp16, "
            "--trainer.precision bf16-mixed. The last checkpoint is from before this step: "
            "continue from it with --resume last."
        )
