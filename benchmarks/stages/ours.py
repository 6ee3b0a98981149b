"""llm2vec_pl itself: its objectives in Lightning's Trainer, as the recipes run them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from benchmarks.stages.turns import Turns
from llm2vec_pl.data.examples import TextBatch, Tokenised
from llm2vec_pl.encoder import Encoder, save_encoder
from llm2vec_pl.objectives import MNTP, Contrastive, Objective

Batch = dict[str, Any]


class InTurn(Callback):
    """Takes each step when it is asked for.

    Args:
        turns: who asks.
    """

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_batch_start(self, *_: Any) -> None:
        """Waits."""
        self.turns.wait()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Answers; asking for the loss waits for the device."""
        self.turns.done(float(outputs["loss"]))


def run(job: dict[str, Any], turns: Turns) -> None:
    """One stage: load, train in turns, save, embed."""
    torch.manual_seed(job["seed"])
    model = _objective(job)
    batches, held_out = _batches(job, "batches", model), _batches(job, "held_out", model)
    model.configure_model()
    model.to(job["device"])
    turns.ready(_held_out_loss(model, held_out, job))
    trainer = Trainer(
        max_steps=job["steps"],
        accelerator=job["device"],
        devices=1,
        precision=job["precision"],
        gradient_clip_val=1.0,
        limit_val_batches=0,
        callbacks=[InTurn(turns)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    turns.wait()
    model.trainer = None  # type: ignore[assignment]
    model.to(job["device"])
    loss = _held_out_loss(model, held_out, job)
    save_encoder(model.encoder, Path(job["save"]))
    if texts := json.loads(Path(job["texts"]).read_text()):
        np.save(job["embeddings"], model.encoder.eval().encode(texts).numpy())
    turns.end(loss)


def _objective(job: dict[str, Any]) -> Objective:
    encoder = Encoder(
        job["start"] or job["model"],
        max_length=job["max_length"],
        lora_rank=job["lora_rank"],
        lora_dropout=job["lora_dropout"],
        attention_dropout=job["attention_dropout"],
        gradient_checkpointing=job["gradient_checkpointing"],
    )
    rate = {"learning_rate": job["learning_rate"], "warmup_steps": job["warmup_steps"]}
    if job["stage"] == "mntp":
        return MNTP(encoder, mask_probability=job["mask_probability"], **rate)
    return Contrastive(encoder, temperature=job["temperature"], **rate)


def _batches(job: dict[str, Any], part: str, model: Objective) -> list[Batch]:
    if job["stage"] == "mntp":
        saved: list[Batch] = torch.load(job[part], weights_only=True)
        return saved
    tokenised = Tokenised(model.encoder.tokenize)
    return [
        dict(
            tokenised(
                TextBatch(
                    task="",
                    queries=texts["queries"],
                    positives=texts["positives"],
                    negatives=texts["negatives"],
                    query_index=list(range(len(texts["negatives"]))),
                    query_instruction="",
                    text_instruction="",
                )
            )
        )
        for texts in json.loads(Path(job[part]).read_text())
    ]


@torch.no_grad()
def _held_out_loss(model: Objective, batches: list[Batch], job: dict[str, Any]) -> float:
    """The mean loss of held-out batches, without dropout."""
    model.eval()
    losses = []
    for batch in batches:
        batch = model.transfer_batch_to_device(batch, torch.device(job["device"]), 0)
        with torch.autocast(
            job["device"], torch.bfloat16, enabled=job["precision"] == "bf16-mixed"
        ):
            losses.append(float(model.loss(batch)))
    return sum(losses) / len(losses)
