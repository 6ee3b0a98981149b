"""This package: the step that its objectives make, without a Trainer around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from llm2vec_pl.data.contrastive_batch import TextBatch, Tokenised
from llm2vec_pl.encoder import Encoder


def build(job: dict[str, Any]) -> Callable[[], None]:
    """One training step, or one pass of `encode`."""
    torch.manual_seed(0)
    if job["work"] == "encode":
        return _encode(job)
    from llm2vec_pl.objectives import MNTP, Contrastive

    encoder = Encoder(job["model"], **job["encoder"]).load()
    model = MNTP(encoder) if job["work"] == "mntp" else Contrastive(encoder, **job["model_options"])
    model.to(job["device"])
    batch = _to_device(_batch(job, encoder), job["device"])
    optimizer = model.optimizer()
    mixed = job["precision"] == "bf16-mixed"

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(job["device"], torch.bfloat16, enabled=mixed):
            loss = model.predict(batch)[0] if isinstance(model, MNTP) else model.loss(batch)
        loss.backward()
        optimizer.step()

    return step


def _batch(job: dict[str, Any], encoder: Encoder) -> Any:
    if job["work"] == "mntp":
        return torch.load(job["batch"], weights_only=True)
    negatives = job["negatives"]
    index = list(range(len(negatives)))
    return Tokenised(encoder.text)(
        TextBatch("", job["queries"], job["positives"], negatives, index, "", "")
    )


def _encode(job: dict[str, Any]) -> Callable[[], None]:
    encoder = Encoder(job["model"], **{**job["encoder"], "lora_rank": 0})
    encoder.load().eval().to(job["device"])

    def run() -> None:
        embeddings = encoder.encode(job["texts"], batch_size=job["batch_size"])
        np.save(job["embeddings"], embeddings.numpy())

    return run


def _to_device(batch: Any, device: str) -> Any:
    if isinstance(batch, dict):
        return {key: _to_device(value, device) for key, value in batch.items()}
    return batch.to(device)
