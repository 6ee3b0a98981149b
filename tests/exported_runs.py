"""What a run leaves that is to be exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder

PROMPTS = {"query": "Find the page:\n", "document": ""}
STAGE = {
    "recipe": "supervised",
    "steps": 7,
    "metrics": {"val/loss": 0.25},
    "config": {"data": {"class_path": "llm2vec_pl.E5", "init_args": {"path": "echo-data"}}},
}


def save_run(base: str | Path, folder: Path, **arguments: Any) -> Path:
    """What a run with a LoRA leaves, whose weights differ from the base's."""
    settings = {"lora_rank": 4, "max_length": 48, "prompts": PROMPTS, **arguments}
    encoder = Encoder(str(base), **settings).load()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return save_encoder(encoder, folder / "encoder", STAGE).parent
