"""sentence-transformers: mean pooling on the same decoder, MultipleNegativesRankingLoss."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from sentence_transformers import SentenceTransformer
from sentence_transformers.losses import MultipleNegativesRankingLoss
from sentence_transformers.models import Pooling, Transformer


def build(job: dict[str, Any]) -> Callable[[], None]:
    """One training step, or one pass of `encode`."""
    torch.manual_seed(0)
    dtype = getattr(torch, job["encoder"].get("dtype", "float32"))
    dropout = {"attention_dropout": job["encoder"].get("attention_dropout") or 0.0}
    folder = _same_decoder(job)
    decoder = Transformer(
        str(folder), max_seq_length=512, model_args={"dtype": dtype}, config_args=dropout
    )
    decoder.tokenizer.pad_token = decoder.tokenizer.pad_token or decoder.tokenizer.eos_token
    pooling = Pooling(decoder.get_word_embedding_dimension(), "mean")
    model = SentenceTransformer(modules=[decoder, pooling], device=job["device"])
    return _encode(job, model) if job["work"] == "encode" else _step(job, model)


def _same_decoder(job: dict[str, Any]) -> Path:
    """The decoder's folder, reading as ours does, and without a chat template.

    sentence-transformers 6 would wrap each text in the template: three times the tokens.
    """
    source, folder = Path(job["model"]), Path(job["embeddings"]).with_suffix("")
    if not source.is_dir():
        source = Path(snapshot_download(job["model"], revision=job["encoder"].get("revision")))
    folder.mkdir()
    for file in source.iterdir():
        if file.suffix != ".jinja":
            (folder / file.name).symlink_to(file.resolve())
    _rewrite(folder / "config.json", {"is_causal": not job["encoder"].get("bidirectional", True)})
    _rewrite(folder / "tokenizer_config.json", {"chat_template": None})
    return folder


def _rewrite(file: Path, changes: dict[str, Any]) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.unlink(missing_ok=True)
    file.write_text(json.dumps(content | changes), encoding="utf-8")


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
