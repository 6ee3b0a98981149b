"""Throughput of several processes compared with one, under DDP or FSDP2, with one thread each."""

from __future__ import annotations

import os
import socket
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import torch.multiprocessing as mp
from lightning.pytorch import Callback, LightningDataModule, Trainer

from llm2vec_pl.data import PythonDocs, PythonDocsPairs
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.objectives import MNTP, Contrastive, Objective
from llm2vec_pl.training import silence_noise

WARM_UP = 3  # steps that are not counted


def scaling(
    processes: int = 2,
    strategy: Literal["ddp", "fsdp2"] = "ddp",
    model_name: str = "tiny",
    steps: int = 12,
    rounds: int = 3,
) -> None:
    """Prints the real tokens per second of one process and of several, and their ratio.

    The work of a process is the same in both. For MNTP it is eight blocks of 256 tokens. For
    contrastive training it is as many queries, each with a positive and a hard negative, as fit
    into 3,072 tokens; they are compared with the texts of all processes.

    Args:
        processes: number of processes, each on one CPU thread.
        strategy: the strategy of several processes.
        model_name: any `--encoder.model_name`.
        steps: number of steps in each measurement.
        rounds: number of measurements of each, in turn; the median of the ratios is reported.
    """
    for objective in ("mntp", "contrastive"):
        pairs = []
        for _ in range(rounds):
            job = (objective, strategy, model_name, steps)
            alone, together = throughput(1, *job), throughput(processes, *job)
            pairs.append((alone, together))
            print(f"{objective}: {alone:,.0f} and {together:,.0f} tokens per second", flush=True)
        ratio = statistics.median(together / alone for alone, together in pairs)
        print(
            f"{objective}: {processes} processes are {ratio:.2f} times as fast as one", flush=True
        )


def throughput(processes: int, *job: Any) -> float:
    """Real tokens per second of all processes together."""
    with TemporaryDirectory() as folder, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        listener.close()
        mp.spawn(_measure, (processes, port, Path(folder), *job), nprocs=processes)
        return sum(float(file.read_text()) for file in Path(folder).iterdir())


class Throughput(Callback):
    """Counts the tokens of all steps after the first few, and the seconds that they take."""

    def __init__(self) -> None:
        self.tokens = 0
        self.started = self.seconds = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds a batch."""
        now = time.perf_counter()
        if batch_idx < WARM_UP:
            self.started = now
            return
        self.seconds = now - self.started
        parts = [part for part in batch.values() if isinstance(part, dict)] or [batch]
        self.tokens += sum(int(part["attention_mask"].sum()) for part in parts)


def _measure(
    rank: int,
    processes: int,
    port: int,
    folder: Path,
    objective: str,
    strategy: str,
    model_name: str,
    steps: int,
) -> None:
    torch.set_num_threads(1)
    silence_noise()
    if processes > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            GROUP_RANK="0",
            WORLD_SIZE=str(processes),
            LOCAL_WORLD_SIZE=str(processes),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            TORCHELASTIC_RUN_ID="benchmark",
        )
    encoder = Encoder(model_name, max_length=256)
    model, data = _job(objective, encoder)
    counted = Throughput()
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy=strategy if processes > 1 else "auto",
        max_steps=WARM_UP + steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[counted],
    )
    trainer.fit(model, data)
    (folder / str(rank)).write_text(str(counted.tokens / counted.seconds))


def _job(objective: str, encoder: Encoder) -> tuple[Objective, LightningDataModule]:
    if objective == "mntp":
        return MNTP(encoder), PythonDocs(max_length=256, batch_size=8)
    return Contrastive(encoder), PythonDocsPairs(batch_size=64, max_negatives=1, max_tokens=3072)
