"""How far Lightning has come in the epoch that it trains."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import Self


class FitProgress:
    """The training loop's count of batches.

    A loader cannot know it: workers load ahead, Lightning fetches one batch ahead from a loader
    without a length, and a checkpoint may be written while a batch is being trained on.

    Args:
        trainer: the trainer with the loop.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    @classmethod
    def of(cls, trainer: object) -> Self | None:
        """The progress of a trainer; None without one."""
        return cls(trainer) if isinstance(trainer, Trainer) else None

    @property
    def epoch(self) -> int:
        """The epoch that is being trained, or comes next."""
        counted: Any = self.trainer.fit_loop.epoch_progress.current
        return int(counted.processed)

    def batches(self) -> int | None:
        """Batches of the epoch that were trained on; None if the trainer is not training."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            return None
        counted: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return int(counted.processed)

    def recount(self, state: dict[str, Any], batches: int) -> None:
        """Converts the count of batches before a checkpoint to batches of a different size.

        Lightning ends an epoch when its count reaches the loader's length.

        Args:
            state: a loader's state from the checkpoint.
            batches: the number of today's batches before the state's position.
        """
        if state["epoch"] != self.epoch:
            return
        counted = self.trainer.fit_loop.epoch_loop.batch_progress.current
        for name in ("ready", "started", "processed", "completed"):
            setattr(counted, name, getattr(counted, name) + batches - state["batches"])

    def complete_epoch(self) -> None:
        """Completes the epoch at whose end a checkpoint was saved.

        If `max_steps` is set, Lightning would otherwise run that epoch again without batches, and
        then skip an epoch number, and so that epoch's order.
        """
        epochs = self.trainer.fit_loop.epoch_progress
        if epochs.total.completed < epochs.total.processed:  # type: ignore[attr-defined]
            epochs.increment_completed()
        self.trainer.fit_loop.epoch_loop.batch_progress.reset_on_run()
