"""What Lightning has counted of the epoch that it trains."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import Self


class FitProgress:
    """The training loop's count of batches.

    A loader cannot know it: workers load ahead, Lightning fetches a batch of an unsized loader
    ahead, and a checkpoint may be written while a batch is being trained on.

    Args:
        trainer: whose loop it is.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    @classmethod
    def of(cls, trainer: object) -> Self | None:
        """That of a trainer; None without one."""
        return cls(trainer) if isinstance(trainer, Trainer) else None

    @property
    def epoch(self) -> int:
        """The epoch that is being trained, or comes next."""
        counted: Any = self.trainer.fit_loop.epoch_progress.current
        return int(counted.processed)

    def batches(self) -> int | None:
        """Batches of the epoch that were trained on; None where the trainer does not train."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            return None
        counted: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        return int(counted.processed)

    def recount(self, state: dict[str, Any], batches: int) -> None:
        """Counts the epoch's batches before a checkpoint in batches of another size or number.

        Lightning ends an epoch when its count is the loader's length.

        Args:
            state: a loader's, from the checkpoint.
            batches: that the state's position is worth now.
        """
        if state["epoch"] != self.epoch:
            return
        counted = self.trainer.fit_loop.epoch_loop.batch_progress.current
        for name in ("ready", "started", "processed", "completed"):
            setattr(counted, name, getattr(counted, name) + batches - state["batches"])

    def complete_epoch(self) -> None:
        """Completes the epoch at whose end a checkpoint was saved.

        Lightning would run it once more without batches where `max_steps` is set, and train on
        with the number, and so the order, of the epoch after the next.
        """
        epochs = self.trainer.fit_loop.epoch_progress
        if epochs.total.completed < epochs.total.processed:  # type: ignore[attr-defined]
            epochs.increment_completed()
        self.trainer.fit_loop.epoch_loop.batch_progress.reset_on_run()
