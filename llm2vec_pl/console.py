"""What a run shows in the terminal: a progress bar, and no advice that the user did not ask for."""

from __future__ import annotations

import logging
import warnings

from lightning.pytorch.callbacks import RichProgressBar

# Of other libraries, about their own internals; a user can do nothing about them.
NOISE = (
    r".*`is_gradient_checkpointing` is deprecated.*",
    r".*`gradient_checkpointing_enable` is deprecated.*",
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*does not have many workers.*",
    r".*Experiment logs directory .* exists and is not empty.*",  # of a run that is resumed
    r".*Checkpoint directory .* exists and is not empty.*",
)


def silence_noise() -> None:
    """Hides other libraries' advertisements and warnings about their internals."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    for name in ("utilities.rank_zero", "trainer.connectors.logger_connector.logger_connector"):
        logger = logging.getLogger(f"lightning.pytorch.{name}")
        logger.addFilter(lambda record: "litlogger" not in record.getMessage())


class RunProgressBar(RichProgressBar):
    """Lightning's bar, which counts epochs where a run is measured in steps."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Training, epoch {current_epoch}"
