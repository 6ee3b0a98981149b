"""Weights with earlier adapters merged in, kept in the cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.encoder.merging import merged_source
from llm2vec_pl.encoder.origin import origin_of


@pytest.fixture
def stage(llama_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path / "cache"))
    encoder = Encoder(llama_folder, lora_rank=2).load()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return Encoder(str(save_encoder(encoder, tmp_path / "stage")))


def merged(stage: Encoder) -> Path:
    origin = origin_of(stage.source, stage.adapters)
    return Path(merged_source(stage.source, stage.adapters, origin, torch.float32).base)


def test_any_rank_of_a_node_writes_them(stage, monkeypatch):
    """transformers lets rank 0 write only: what another rank built was empty, and stayed so."""
    monkeypatch.setattr(PreTrainedModel, "should_save_on_this_rank", lambda *_: False)
    assert (merged(stage) / "model.safetensors").is_file()


def test_they_are_kept_by_their_content(stage, tmp_path):
    first = merged(stage)
    copy = tmp_path / "copy"
    Path(stage.adapters[0]).rename(copy)
    stage.adapters = [str(copy)]
    assert merged(stage) == first
    file = copy / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert merged(stage) != first
