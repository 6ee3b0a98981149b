"""Can an architecture be trained, saved and opened again? Asked of a tiny model, with a real step.

Each architecture's tiny model is saved once, as its checkpoints are: inside of a model that reads
images too, where there is one. From there all properties are measured in one go.
"""

from __future__ import annotations

import functools
import re
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tiny_models import tiny_checkpoint, tiny_tokenizer
from torch import Tensor

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.objectives import MNTP, Contrastive, Objective
from llm2vec_pl.training.self_check import require_gradients

LEFT_OUT = re.compile(r"the LoRA leaves out (.*), which peft")
TEXTS = ["A short text.", "Another text, a little longer than it.", "And a third one"]
OTHERS = ["The short text again", "That one again.", "The third one."]


@dataclass(frozen=True)
class Properties:
    """What came of a step of training: None where all is well, else the error."""

    packs: bool
    lora_trains: str | None
    full_trains: str | None
    reopens: str | None
    left_out: str  # by the LoRA, because of peft


@functools.cache
def properties(model_type: str) -> Properties:
    """Trains a step with default arguments, on a LoRA and on all weights; saves and reopens."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        base, saved = f"{name}/base", Path(name, "saved")
        tiny_checkpoint(model_type).save_pretrained(base)
        tiny_tokenizer().save_pretrained(base)
        untrained = Encoder(base, lora_rank=0).load()
        lora, full = Encoder(base), Encoder(base, lora_rank=0)
        trains = [error_of(take_steps, encoder) for encoder in (lora, full)]
        reopens = [
            error_of(require_same_embeddings, encoder, untrained, saved)
            for encoder, error in zip((full, lora), trains[::-1], strict=True)
            if not error
        ]
        return Properties(
            untrained.packs,
            *trains,
            next(filter(None, reopens), None),
            next((m[1] for w in said if (m := LEFT_OUT.search(str(w.message)))), ""),
        )


def error_of(function: Callable[..., None], *args: object) -> str | None:
    """What it raises, in words."""
    try:
        function(*args)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def take_steps(encoder: Encoder) -> None:
    """One step of MNTP and one of contrastive learning, each on a batch that it has seen before."""
    encoder.load()
    for objective in (MNTP(encoder, learning_rate=1e-2), Contrastive(encoder, learning_rate=1e-2)):
        batch = batch_for(objective)
        before = loss(objective, batch)
        before.backward()
        require_gradients(objective)
        assert all(p.grad.isfinite().all() for p in objective.parameters() if p.grad is not None), (
            "a gradient is not finite"
        )
        optimizer = objective.optimizer()
        optimizer.step()
        optimizer.zero_grad()
        after = loss(objective, batch)
        assert after.isfinite(), "the loss is not finite"
        assert after != before, "the step has not changed the loss"


def batch_for(objective: Objective) -> dict:
    encoder = objective.encoder
    batch = encoder.tokenize(TEXTS)
    if isinstance(objective, Contrastive):
        return {"query": batch, "positive": encoder.tokenize(OTHERS)}
    batch.pop("pooling_mask")
    return objective.masked(batch, torch.Generator().manual_seed(0))


def loss(objective: Objective, batch: dict) -> Tensor:
    """With the same dropout each time."""
    torch.manual_seed(1)
    return objective.loss(batch)


def require_same_embeddings(encoder: Encoder, untrained: Encoder, folder: Path) -> None:
    """Of a trained encoder and of what it has saved; a LoRA also as peft opens it by itself."""
    own = encoder.encode(TEXTS)
    moved = (own - untrained.encode(TEXTS)).norm()
    assert moved > 1e-4 * own.norm(), "training has not moved the embeddings"
    save_encoder(encoder, folder)
    close(Encoder.from_pretrained(folder, dtype="float32").encode(TEXTS), own, moved)
    if encoder.lora_rank:
        from peft import PeftModel

        untrained.decoder = PeftModel.from_pretrained(untrained.decoder, str(folder))
        close(untrained.encode(TEXTS), own, moved)


def close(found: Tensor, expected: Tensor, moved: Tensor) -> None:
    """Much nearer than training has moved the embeddings."""
    error = (found - expected).norm() / moved
    assert error < 1e-2, f"embeddings differ by {error:.2g} of what training has changed"
