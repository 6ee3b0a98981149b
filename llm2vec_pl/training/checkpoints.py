"""When a run is saved: the best after validation, the last regularly and before a stop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from llm2vec_pl.errors import UserError
from llm2vec_pl.training.agreement import Agreement
from llm2vec_pl.training.signals import StopSignals

LAST = "last.ckpt"
BEST = "best.ckpt"


class Stopped(SystemExit):
    """A run was asked to stop and has written its last checkpoint; exit code 128 + signal."""


class Checkpoints(ModelCheckpoint):
    """Keeps `best.ckpt`, by validation loss, and `last.ckpt`, from which a run continues exactly.

    `last.ckpt` is written between two optimizer steps: regularly, at the end, and before the run
    stops on SIGTERM, Ctrl-C or SLURM's pre-emption signal. A new file replaces the old one only
    when it is whole.

    Args:
        every_n_steps: write `last.ckpt` after this many optimizer steps; 0 for never.
        every_n_minutes: also write it after this many minutes; 0 for never.
        monitor: the validation metric that decides which checkpoint is best.
        mode: whether the lowest ("min") or the highest ("max") value is best.

    Raises:
        UserError: for an interval below 0 or an unknown mode.
    """

    def __init__(
        self,
        every_n_steps: int = 0,
        every_n_minutes: float = 10.0,
        monitor: str = "val/loss",
        mode: str = "min",
    ) -> None:
        if mode not in ("min", "max"):
            raise UserError(f"--checkpoint.mode is min or max, but got {mode}.")
        for flag, value in [("every_n_steps", every_n_steps), ("every_n_minutes", every_n_minutes)]:
            if value < 0:
                raise UserError(f"--checkpoint.{flag} expects at least 0, but got {value}.")
        super().__init__(monitor=monitor, mode=mode, filename=BEST.removesuffix(".ckpt"))
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self._signals = StopSignals()
        self._agreement = Agreement()
        self._saved_at = 0.0  # time.monotonic()
        self._saved_step = -1
        self._seen_step = -1
        self._due = False
        self._stop = False

    @property
    @override
    def state_key(self) -> str:
        return f"Checkpoints(monitor={self.monitor!r}, mode={self.mode!r})"

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._signals.watch()
        # Before each batch, Lightning asks all ranks whether one got SIGTERM, and waits for the
        # answer. Here they agree on it after each step.
        vars(trainer.fit_loop.epoch_loop)["_broadcast_sigterm_tensor"] = lambda: None
        self._saved_at = time.monotonic()
        self._seen_step = self._saved_step = trainer.global_step
        self._due = self._stop = False

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Only here: by now, what the previous step logged is written.
        if self._stop and self._saved_step == trainer.global_step:
            self._end(trainer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)
        step = trainer.global_step
        if step == self._seen_step:  # gradients are being accumulated, and are not saved
            return
        self._seen_step = step
        late = bool(self.every_n_minutes) and (
            time.monotonic() - self._saved_at >= 60 * self.every_n_minutes
        )
        stop, late = self._agreement.exchange(
            [self._signals.received is not None, late], pl_module.device
        )
        self._stop |= stop
        self._due |= stop or late or bool(self.every_n_steps and step % self.every_n_steps == 0)
        # At the end Lightning closes the epoch even in the middle of it: a run resumed for more
        # steps would begin with the next epoch.
        self._due |= step == trainer.max_steps
        # A run resumed from a checkpoint before a validation would skip that validation.
        if self._due and not validation_follows(trainer):
            self._save_last(trainer)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        between_steps = not trainer.fit_loop._should_accumulate()
        self._due |= trainer.should_stop  # EarlyStopping may end a run in mid-epoch, too
        if self._due and between_steps and not self._should_not_save(trainer):
            self._save_last(trainer)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._saved_step != trainer.global_step and not self._should_not_save(trainer):
            self._save_last(trainer)
        self._leave(trainer)

    @override
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._leave(trainer)

    def _leave(self, trainer: Trainer) -> None:
        self._signals.leave()
        vars(trainer.fit_loop.epoch_loop).pop("_broadcast_sigterm_tensor", None)

    @override
    def _should_save_on_train_epoch_end(self, trainer: Trainer) -> bool:
        after_each_batch = validates_each_batch(trainer)
        return not after_each_batch and super()._should_save_on_train_epoch_end(trainer)

    def _should_not_save(self, trainer: Trainer) -> bool:
        quick = trainer.fast_dev_run  # type: ignore[attr-defined]
        return bool(quick) or trainer.state.fn != "fit" or trainer.sanity_checking

    def _save_last(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        trainer.save_checkpoint(Path(str(self.dirpath)) / LAST)
        self._saved_at = time.monotonic()
        self._saved_step = trainer.global_step
        self._due = False

    def _end(self, trainer: Trainer) -> None:
        received = self._signals.received
        requeue = self._signals.then()
        if requeue is not None:
            requeue()
        name = received.name if received else "A signal to another process"
        rank_zero_info(
            f"{name} stopped the run after step {trainer.global_step:,}. To continue, run the same "
            "command with --resume last."
        )
        raise Stopped(128 + (received or 0))


def validates_each_batch(trainer: Trainer) -> bool:
    """Whether `val_check_interval` is 1 (after each batch), and not 1.0 (once per epoch).

    Lightning's loop distinguishes the two, but its callbacks do not.
    """
    interval = trainer.val_check_interval  # type: ignore[attr-defined]
    return interval == 1 and isinstance(interval, int)


def follow_each_validation(trainer: Trainer) -> None:
    """Lets Lightning's own callbacks act on each validation if there is one after each batch.

    Otherwise they would act only at the end of the epoch, on its last validation.
    """
    if not validates_each_batch(trainer):
        return
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ModelCheckpoint) and callback._save_on_train_epoch_end is None:
            callback._save_on_train_epoch_end = False
        if isinstance(callback, EarlyStopping) and callback._check_on_train_epoch_end is None:
            callback._check_on_train_epoch_end = False


def validation_follows(trainer: Trainer) -> bool:
    """Whether Lightning validates right after the batch that has just ended."""
    loop: Any = trainer.fit_loop
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))
