"""Runs to export, and one export that the tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from exported_runs import save_run
from saved_models import save_model, small_llama

from llm2vec_pl.use.export.export import export_encoder


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
