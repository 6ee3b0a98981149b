"""A run that cannot continue: what to do about it, with no process left running."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import Trainer

from llm2vec_pl.errors import UserError

OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
PATIENCE = 5.0  # seconds for the other processes to end by themselves


@contextmanager
def out_of_memory() -> Iterator[None]:
    """Says what saves memory if a step does not fit.

    Raises:
        UserError: instead of PyTorch's error.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        is_known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not is_known and not OUT_OF_MEMORY.search(str(error)):
            raise
        what = (str(error).strip().splitlines() or ["out of memory"])[0]
        raise UserError(
            f"There is not enough memory on the device for this run: {what}\nWhat helps, cheapest "
            "first: --encoder.dtype bfloat16, --trainer.precision bf16-mixed, a smaller "
            "--data.batch_size (with --trainer.accumulate_grad_batches for MNTP; for contrastive "
            "training --model.chunk_size instead, which keeps the batch), "
            "--encoder.gradient_checkpointing true, --encoder.quantization nf4, or "
            "--trainer.strategy fsdp2 on several devices. Earlier checkpoints are whole."
        ) from error


@contextmanager
def no_process_left(trainer: Trainer) -> Iterator[None]:
    """Ends the processes that Lightning has started if this one fails.

    Otherwise they would wait for it in a collective operation for half an hour.
    """
    try:
        yield
    except BaseException:
        processes = getattr(trainer.strategy.launcher, "procs", [])
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and any(p.poll() is None for p in processes):
            time.sleep(0.1)
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
        raise
