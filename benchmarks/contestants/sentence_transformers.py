"""sentence-transformers: mean pooling on the decoder as it is, MultipleNegativesRankingLoss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.losses import MultipleNegativesRankingLoss
from sentence_transformers.models import Pooling, Transformer


def build(job: dict[str, Any]) -> Callable[[], None]:
    """One training step, or one pass of `encode`."""
    torch.manual_seed(0)
    dtype = getattr(torch, job["encoder"].get("dtype", "float32"))
    dropout = {"attention_dropout": job["encoder"].get("attention_dropout") or 0.0}
    decoder = Transformer(
        job["model"], max_seq_length=512, model_args={"dtype": dtype}, config_args=dropout
    )
    decoder.tokenizer.pad_token = decoder.tokenizer.pad_token or decoder.tokenizer.eos_token
    pooling = Pooling(decoder.get_word_embedding_dimension(), "mean")
    model = SentenceTransformer(modules=[decoder, pooling], device=job["device"])
    return _encode(job, model) if job["work"] == "encode" else _step(job, model)


def _encode(job: dict[str, Any], model: SentenceTransformer) -> Callable[[], None]:
    def run() -> None:
        embeddings = model.encode(
            job["texts"], batch_size=job["batch_size"], show_progress_bar=False
        )
        np.save(job["embeddings"], embeddings)

    return run


def _step(job: dict[str, Any], model: SentenceTransformer) -> Callable[[], None]:
    from peft import LoraConfig

    rank = job["lora_rank"]
    lora = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=job["lora_dropout"], target_modules="all-linear"
    )
    decoder: Any = model[0].auto_model
    decoder.add_adapter(lora)
    if job["encoder"].get("gradient_checkpointing"):
        decoder.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    loss = MultipleNegativesRankingLoss(model, scale=1 / job["model_options"]["temperature"])
    parts = [
        model.tokenize(job[part]) for part in ("queries", "positives", "negatives") if job[part]
    ]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-5)
    mixed = job["precision"] == "bf16-mixed"

    def step() -> None:
        features = [
            {k: v.to(job["device"]) for k, v in part.items() if isinstance(v, torch.Tensor)}
            for part in parts
        ]
        optimizer.zero_grad()
        with torch.autocast(job["device"], torch.bfloat16, enabled=mixed):
            value = loss(features, None)
        value.backward()
        optimizer.step()

    return step
