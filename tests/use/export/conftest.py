"""Runs to export, and one export that the tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from saved_models import save_model, small_llama

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.use.export.export import export_encoder

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


@pytest.fixture(scope="session")
def run(llama_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose tokenizer begins each text with a control token, `<s>`."""
    return save_run(llama_folder, tmp_path_factory.mktemp("runs") / "version_0")


@pytest.fixture(scope="session")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_encoder(run, tmp_path_factory.mktemp("exports") / "exported")


@pytest.fixture(scope="session")
def one_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder that is traced in little time."""
    config = small_llama(num_hidden_layers=1)
    return save_model(config, tmp_path_factory.mktemp("models") / "one_layer")
