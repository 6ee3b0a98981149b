"""Counts the files of this package that a batch passes through in one training step.

python benchmarks/step_files.py

A step begins with what is done to a batch before it goes to the device, and ends with the
optimizer's step; making the batch from texts is counted separately. The model is the embedded
decoder with a LoRA, on the CPU.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch.utils.data import DataLoader

import llm2vec_pl
from llm2vec_pl.data import PythonDocs, PythonDocsPairs
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.objectives import MNTP, Contrastive, Objective
from llm2vec_pl.training import silence_noise

PACKAGE = Path(llm2vec_pl.__file__).parent
STEP = 3  # the step to watch: the first ones include checks


@contextmanager
def watching(files: set[str]) -> Iterator[None]:
    """Adds the package's files in which a function is called inside this context."""

    def note(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        is_import = frame.f_code.co_name == "<module>"
        if event == "call" and path.is_relative_to(PACKAGE) and not is_import:
            files.add(str(path.relative_to(PACKAGE)))

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


class Watch(Callback):
    """Watches one step, from the end of the previous step to its own end."""

    def __init__(self, files: set[str]) -> None:
        self._watching = watching(files)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Begins after the previous step, ends after the step."""
        if batch_idx == STEP - 2:
            self._watching.__enter__()
        elif batch_idx == STEP - 1:
            self._watching.__exit__(None, None, None)


def files_of(module: Objective, data: LightningDataModule) -> tuple[set[str], set[str]]:
    """The files that make a batch, and those that its training step passes through."""
    data.attach(module.encoder)  # type: ignore[attr-defined]
    data.prepare_data()
    data.setup("fit")
    loader = iter(data.train_dataloader())
    batches = list(islice(loader, STEP))
    making: set[str] = set()
    with watching(making):
        batches.append(next(loader))
    step: set[str] = set()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEP + 1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Watch(step)],
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return making, step


def report(what: str, making: set[str], step: set[str]) -> None:
    """Prints the files and their number."""
    print(f"{what}: {len(step)} files in a step, and {len(making - step)} that make a batch")
    print("  step: ", *sorted(step))
    print("  batch:", *sorted(making - step), "\n")


if __name__ == "__main__":
    silence_noise()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    mntp = MNTP(Encoder("tiny", max_length=64))
    report("MNTP", *files_of(mntp, PythonDocs(batch_size=4)))
    supervised = Contrastive(Encoder("tiny", max_length=64), temperature=0.02)
    report("Triplets", *files_of(supervised, PythonDocsPairs(batch_size=4, max_negatives=1)))
