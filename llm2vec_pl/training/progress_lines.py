"""How a run goes, where there is no terminal to draw a bar in: a line a minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from typing_extensions import override

from llm2vec_pl.training.batch_tokens import token_count
from llm2vec_pl.training.lines import SECONDS, say
from llm2vec_pl.training.pace import Pace, duration


class ProgressLines(ProgressBar):
    """Prints a line after the first step, once a minute, and at the end, on the first rank.

    It takes the place of a progress bar, so that `--trainer.enable_progress_bar false` turns it
    off too. Tokens per second are those of all ranks, without padding and without the time of
    validations. The loss is fetched from the device for a line only.

    Args:
        seconds: time between two lines.
        clock: gives the time in seconds.
        write: called with each line.
    """

    asks_for_the_loss = True  # so that no step has to fetch it

    def __init__(
        self,
        seconds: float = SECONDS,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], object] = say,
    ) -> None:
        super().__init__()
        self.seconds = seconds
        self.clock = clock
        self.write = write
        self._is_enabled = True
        self._pace: Pace | None = None
        self._said = 0.0  # when the last line was written
        self._said_of_steps = 0.0  # when the last line on steps was
        self._said_step: int | None = None  # the step of that line, in this fit

    @override
    def enable(self) -> None:
        self._is_enabled = True

    @override
    def disable(self) -> None:
        self._is_enabled = False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pace = None  # begins with the first batch, not with the workers that load it
        self._said_step = None

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._pace is None:
            self._pace = Pace(trainer.global_step, self.clock)
        self._pace.go_on()

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if not self._is_enabled or self._pace is None:
            return
        tokens = token_count(batch) * trainer.world_size
        ended = self._pace.count(tokens, trainer.global_step)
        is_due = self.clock() - self._said_of_steps >= self.seconds
        if ended and (is_due or self._said_step is None):
            self._say_step(trainer, pl_module)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_enabled and self._pace is not None:
            known = self._pace.first_step if self._said_step is None else self._said_step
            if trainer.global_step > known:
                self._say_step(trainer, pl_module)
        self._pace = None

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._pace is not None:
            self._pace.pause()
        else:
            self._said = self.clock()

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._is_enabled and self.clock() - self._said >= self.seconds:
            total = trainer.num_val_batches
            known = total[dataloader_idx] if isinstance(total, list) else total
            of = f" of {known:,}" if known != float("inf") else ""
            self.write(f"validating: batch {batch_idx + 1:,}{of}")
            self._said = self.clock()

    def _say_step(self, trainer: Trainer, module: LightningModule) -> None:
        assert self._pace is not None
        step, steps = trainer.global_step, trainer.estimated_stepping_batches
        known = 0 < steps < float("inf")
        parts = [f"step {step:,} of {steps:,}" if known else f"step {step:,}"]
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None:
            parts.append(f"train/loss {loss.item():.4g}")
        if rate := self._pace.tokens_per_second():
            parts.append(f"{rate:,.0f} tokens/s")
        if known and step < steps:
            parts.append(f"{duration(self._pace.seconds_left(step, int(steps)))} left")
        parts += memory_in_use(module.device)
        self.write(", ".join(parts))
        self._said = self._said_of_steps = self.clock()
        self._said_step = step


def memory_in_use(device: torch.device) -> list[str]:
    """What a process has resident on a CPU, or has had allocated on a GPU at its peak."""
    from llm2vec_pl.training.memory import gib, resident_now

    if device.type == "cuda":
        return [f"{gib(torch.cuda.max_memory_allocated(device))} GiB allocated at the peak"]
    resident = resident_now()
    return [] if resident is None else [f"{gib(resident)} GiB resident"]
