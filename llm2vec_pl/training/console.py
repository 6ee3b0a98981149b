"""What a run shows in the terminal: a progress bar, without other libraries' advice."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

# Messages of other libraries about their own internals; a user can do nothing about them.
NOISE = (
    r".*`gradient_checkpointing_enable` is deprecated.*",
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*does not have many workers.*",
    r".*You have overridden `on_before_batch_transfer`.*",
    r".*module\(s\) in eval mode at the start of training.*",  # a frozen encoder
    r".*Experiment logs directory .* exists and is not empty.*",  # when a run is resumed
    r".*Checkpoint directory .* exists and is not empty.*",
)


def silence_noise() -> None:
    """Hides other libraries' advertisements and warnings about their internals."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    for name in ("utilities.rank_zero", "trainer.connectors.logger_connector.logger_connector"):
        logger = logging.getLogger(f"lightning.pytorch.{name}")
        logger.addFilter(lambda record: "litlogger" not in record.getMessage())
    # That a kernel for 4-bit weights on some CPUs could be fetched from the hub.
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.addFilter(lambda record: "gemm_4bit_forward" not in record.getMessage())


class RunProgressBar(RichProgressBar):
    """Lightning's progress bar, which says "Training, epoch N" and fetches the loss once a second.

    Lightning itself would fetch it in each step, and wait for the device each time.
    """

    seconds_between_losses = 1.0
    asks_for_the_loss = True  # so that no step has to fetch it
    _asked = 0.0  # time.monotonic()
    _loss: float | None = None

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What the bar shows."""
        now = time.monotonic()
        if now - self._asked >= self.seconds_between_losses:
            self._asked = now
            loss = trainer.callback_metrics.get("train/loss")
            self._loss = None if loss is None else loss.item()
        shown = {} if self._loss is None else {"train/loss": self._loss}
        return {**shown, **super().get_metrics(trainer, pl_module)}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Training, epoch {current_epoch}"
