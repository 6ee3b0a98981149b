"""The authors' llm2vec 0.2.3: its models and its loss, trained as its scripts train them.

`run_mntp.py`, `run_simcse.py` and `run_supervised.py` of its repository are Hugging Face's Trainer
around these classes: AdamW, a linear schedule, gradients clipped at a norm of 1. Here the same is
a plain loop. Runs in an interpreter with llm2vec, and so with transformers 4.44 or earlier.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.tensor  # recent peft takes it for imported
from llm2vec import LLM2Vec, models
from llm2vec.loss.HardNegativeNLLLoss import HardNegativeNLLLoss
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    get_linear_schedule_with_warmup,
)

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SEPARATOR = "!@#$%^&*()"  # between instruction and text
OF_MNTP = {
    "llama": "LlamaBiForMNTP",
    "mistral": "MistralBiForMNTP",
    "gemma": "GemmaBiForMNTP",
    "qwen2": "Qwen2BiForMNTP",
}

Batch = dict[str, Any]


def run(job: dict[str, Any], turns: Any) -> None:
    """One stage: load, train in turns, save, embed."""
    torch.manual_seed(job["seed"])
    stage: Any = (_MNTP if job["stage"] == "mntp" else _Contrastive)(job)
    module = stage.module.to(job["device"])
    batches, held_out = stage.batches(job["batches"]), stage.held_out(job["held_out"])
    mixed = job["precision"] == "bf16-mixed"

    def compute(batch: Batch) -> Any:
        with torch.autocast(job["device"], torch.bfloat16, enabled=mixed):
            return stage.loss(batch)

    turns.ready(_held_out_loss(module, compute, held_out))
    weights = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=job["learning_rate"], weight_decay=0.0)
    warmup = job["warmup_steps"]
    warmup = round(warmup if warmup >= 1 else warmup * job["steps"])
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, job["steps"])
    module.train()
    for batch in batches:
        turns.wait()
        loss = compute(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        turns.done(float(loss))
    turns.wait()
    last = _held_out_loss(module, compute, held_out)
    stage.save(job["save"])
    if texts := json.loads(Path(job["texts"]).read_text()):
        embeddings = stage.encoder().encode(texts, show_progress_bar=False, device=job["device"])
        np.save(job["embeddings"], embeddings.numpy())
    turns.end(last)


class _MNTP:
    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.tokenizer = AutoTokenizer.from_pretrained(job["model"])
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.tokenizer.padding_side = "left"
        kind = AutoConfig.from_pretrained(job["model"]).model_type
        model: Any = getattr(models, OF_MNTP[kind])
        self.module = model.from_pretrained(job["model"], **_how(job))
        self.module.set_model_for_peft(_with_lora(self.module.get_model_for_peft(), job))

    def batches(self, file: str) -> list[Batch]:
        self.tokenizer.mask_token = "_"
        collator = DataCollatorForLanguageModeling(
            self.tokenizer, mlm_probability=self.job["mask_probability"]
        )
        blocks = torch.load(file, weights_only=True)
        masked = [
            collator([{"input_ids": row} for row in batch["input_ids"].tolist()])
            for batch in blocks
        ]
        return [{**batch, "attention_mask": torch.ones_like(batch["labels"])} for batch in masked]

    def held_out(self, file: str) -> list[Batch]:
        saved: list[Batch] = torch.load(file, weights_only=True)
        return saved

    def loss(self, batch: Batch) -> Any:
        return self.module(**{key: value.to(self.job["device"]) for key, value in batch.items()})[0]

    def save(self, folder: str) -> None:
        self.module.save_peft_model(folder)

    def encoder(self) -> Any:
        options = {"pooling_mode": "mean", "max_length": self.job["max_length"]}
        return LLM2Vec(
            self.module.model, self.tokenizer, doc_max_length=self.job["max_length"], **options
        )


class _Contrastive:
    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        longest = job["max_length"]
        options = {"pooling_mode": "mean", "max_length": longest, "doc_max_length": longest}
        if job["attention_dropout"] is not None:
            options["attention_dropout"] = job["attention_dropout"]
        self.module = LLM2Vec.from_pretrained(
            job["model"],
            peft_model_name_or_path=job["start"],
            merge_peft=job["start"] is not None,
            **options,
            **_how(job),
        )
        self.module.model = _with_lora(self.module.model, job)
        self._compare = HardNegativeNLLLoss(scale=1 / job["temperature"])

    def batches(self, file: str) -> list[Batch]:
        return [
            {
                part: self.module.tokenize([SEPARATOR + text for text in texts[part]])
                for part in ("queries", "positives", "negatives")
                if texts[part]
            }
            for texts in json.loads(Path(file).read_text())
        ]

    def held_out(self, file: str) -> list[Batch]:
        return self.batches(file)

    def loss(self, batch: Batch) -> Any:
        # One pass each, as in its trainers; the model changes the batch that it is given.
        device = self.job["device"]
        return self._compare(
            *(
                self.module({key: value.to(device) for key, value in part.items()})
                for part in batch.values()
            )
        )

    def save(self, folder: str) -> None:
        self.module.model.save_pretrained(folder)

    def encoder(self) -> Any:
        return self.module


def _how(job: dict[str, Any]) -> dict[str, Any]:
    return {"torch_dtype": torch.float32, "attn_implementation": "sdpa"}


def _with_lora(decoder: Any, job: dict[str, Any]) -> Any:
    rank = job["lora_rank"]
    if job["gradient_checkpointing"]:
        decoder.gradient_checkpointing_enable({"use_reentrant": False})
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=job["lora_dropout"], target_modules=PROJECTIONS
    )
    return get_peft_model(decoder, config)


@torch.no_grad()
def _held_out_loss(module: Any, compute: Callable[[Batch], Any], batches: list[Batch]) -> float:
    """The mean loss of held-out batches, without dropout."""
    module.eval()
    losses = [float(compute(batch)) for batch in batches]
    return sum(losses) / len(losses)
