"""The authors' `llm2vec` 0.2.3: its models, its loss and its padding, as its scripts use them.

Runs in an interpreter with llm2vec, and so with transformers 4.44 or earlier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed.tensor  # recent peft takes it for imported
from llm2vec import LLM2Vec
from llm2vec.loss.HardNegativeNLLLoss import HardNegativeNLLLoss
from llm2vec.models import LlamaBiForMNTP
from peft import LoraConfig, get_peft_model

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SEPARATOR = "!@#$%^&*()"  # between instruction and text


def build(job: dict[str, Any]) -> Callable[[], None]:
    """One training step, or one pass of `encode`."""
    torch.manual_seed(0)
    dtype = getattr(torch, job["encoder"].get("dtype", "float32"))
    how = {"torch_dtype": dtype, "attn_implementation": "sdpa"}
    if job["work"] == "encode":
        return _encode(job, how)
    if dropout := job["encoder"].get("attention_dropout"):
        how["attention_dropout"] = dropout
    model, compute = _mntp(job, how) if job["work"] == "mntp" else _contrastive(job, how)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5)
    mixed = job["precision"] == "bf16-mixed"

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(job["device"], torch.bfloat16, enabled=mixed):
            value = compute()
        value.backward()
        optimizer.step()

    return step


def _mntp(job: dict[str, Any], how: dict[str, Any]) -> tuple[Any, Callable[[], Any]]:
    model = LlamaBiForMNTP.from_pretrained(job["old_model"], **how).to(job["device"])
    model.set_model_for_peft(_with_lora(model.get_model_for_peft(), job))
    saved = torch.load(job["batch"], weights_only=True)
    batch = {key: value.to(job["device"]) for key, value in saved.items()}
    return model, lambda: model(**batch).loss


def _contrastive(job: dict[str, Any], how: dict[str, Any]) -> tuple[Any, Callable[[], Any]]:
    model = _model(job, how)
    model.model = _with_lora(model.model, job)
    loss = HardNegativeNLLLoss(scale=1 / job["model_options"]["temperature"])
    parts = [
        model.tokenize([SEPARATOR + text for text in job[part]])
        for part in ("queries", "positives", "negatives")
        if job[part]
    ]
    parts = [{key: value.to(job["device"]) for key, value in part.items()} for part in parts]
    # One pass each, as in its trainers; the model changes the batch that it is given.
    return model, lambda: loss(*(model({**part}) for part in parts))


def _encode(job: dict[str, Any], how: dict[str, Any]) -> Callable[[], None]:
    model = _model(job, how)

    def run() -> None:
        embeddings = model.encode(
            job["texts"], batch_size=job["batch_size"], show_progress_bar=False
        )
        np.save(job["embeddings"], embeddings.numpy())

    return run


def _model(job: dict[str, Any], how: dict[str, Any]) -> Any:
    # Without these options it cuts texts at 400 tokens.
    options = {"pooling_mode": "mean", "max_length": 512, "doc_max_length": 512}
    return LLM2Vec.from_pretrained(job["old_model"], **options, **how).to(job["device"])


def _with_lora(decoder: Any, job: dict[str, Any]) -> Any:
    rank = job["lora_rank"]
    if job["encoder"].get("gradient_checkpointing"):
        decoder.gradient_checkpointing_enable({"use_reentrant": False})
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=job["lora_dropout"], target_modules=PROJECTIONS
    )
    return get_peft_model(decoder, config)
