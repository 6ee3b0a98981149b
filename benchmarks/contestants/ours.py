"""llm2vec_pl itself: a step of its objectives, without a Trainer around it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.flops import matrix_rate, model_flops
from llm2vec_pl.data.examples import TextBatch, Tokenised
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.objectives import IGNORED


def build(job: dict[str, Any]) -> Callable[[], None]:
    """One training step, or one pass of `encode`."""
    torch.manual_seed(0)
    return _encode(job) if job["work"] == "encode" else _step(job)


def _step(job: dict[str, Any]) -> Callable[[], None]:
    from llm2vec_pl.objectives import MNTP, Contrastive

    encoder = Encoder(job["model"], **job["encoder"]).load()
    is_mntp = job["work"] == "mntp"
    model: Any = MNTP(encoder) if is_mntp else Contrastive(encoder, **job["model_options"])
    model.to(job["device"])
    parts = _token_batches(job, encoder)
    labels = parts["all"]["labels"] if is_mntp else torch.full((1, 1), IGNORED)
    _note(job, encoder, [part["attention_mask"] for part in parts.values()], labels)
    parts = {
        name: {key: value.to(job["device"]) for key, value in part.items()}
        for name, part in parts.items()
    }
    optimizer = model.optimizer()
    mixed = job["precision"] == "bf16-mixed"

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(job["device"], torch.bfloat16, enabled=mixed):
            loss = model.predict(parts["all"])[0] if is_mntp else model.loss(parts)
        loss.backward()
        optimizer.step()

    return step


def _token_batches(job: dict[str, Any], encoder: Encoder) -> dict[str, Any]:
    if job["work"] == "mntp":
        return {"all": torch.load(job["batch"], weights_only=True)}
    negatives = job["negatives"]
    index = list(range(len(negatives)))
    texts = TextBatch("", job["queries"], job["positives"], negatives, index, "", "")
    return Tokenised(encoder.tokenize)(texts)


def _encode(job: dict[str, Any]) -> Callable[[], None]:
    encoder = Encoder(job["model"], **{**job["encoder"], "lora_rank": 0})
    encoder.load().eval().to(job["device"])
    masks = encoder.tokenize(job["texts"])["attention_mask"].split(job["batch_size"])
    _note(job, encoder, masks, torch.full((1, 1), IGNORED))

    def run() -> None:
        embeddings = encoder.encode(job["texts"], batch_size=job["batch_size"])
        np.save(job["embeddings"], embeddings.numpy())

    return run


def _note(job: dict[str, Any], encoder: Encoder, masks: Sequence[Tensor], labels: Tensor) -> None:
    """Writes how much work it is, for the report."""
    lengths = [mask.sum(dim=1).tolist() for mask in masks]
    real = [length for each in lengths for length in each]
    training = job["work"] != "encode"
    predicted = int((labels[:, 1:] != IGNORED).sum())
    half = job["precision"] == "bf16-mixed" or encoder.dtype == "bfloat16"
    facts: dict[str, Any] = {
        "tokens": sum(real),
        "padded": sum(len(each) * max(each) for each in lengths),  # in batches in the given order
        "flops": model_flops(encoder, real, predicted, training),
        "rate": matrix_rate(job["device"], torch.bfloat16 if half else torch.float32),
    }
    if encoder.fidelity:
        facts["quantization"] = str(encoder.fidelity)
    Path(job["facts"]).write_text(json.dumps(facts))
