"""`llm2vec_config.json` as the reference implementation writes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft_adapters import train_lora
from transformers import AutoModelForCausalLM

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError

TEXTS = ["a text", "another one that is longer"]


@pytest.fixture
def adapter(llama_folder: str, tmp_path: Path) -> Path:
    decoder = AutoModelForCausalLM.from_pretrained(llama_folder).get_decoder()
    return train_lora(decoder, llama_folder, tmp_path / "lora")


def configure(folder: Path, **settings: object) -> Path:
    (folder / "llm2vec_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("mode", "pooling"),
    [("mean", "mean"), ("weighted_mean", "weighted_mean"), ("last_token", "last")],
)
def test_its_pooling_mode_is_taken(adapter, mode, pooling):
    encoder = Encoder.from_pretrained(configure(adapter, pooling_mode=mode, max_length=64))
    assert (encoder.pooling, encoder.tokenize.max_length) == (pooling, 64)


def test_its_weights_of_the_mean_are_ours(adapter):
    """get_pooling of llm2vec 0.2.3: 1, 2, 3, … over the text's own tokens, divided by their sum."""
    encoder = Encoder.from_pretrained(
        configure(adapter, pooling_mode="weighted_mean"), dtype="float32"
    )
    batch = encoder.tokenize(TEXTS)
    with torch.no_grad():
        states = encoder.hidden_states(batch)
    for row, embedding in enumerate(encoder.encode(TEXTS)):
        own = states[row][batch["pooling_mask"][row].bool()]
        weights = torch.arange(1, len(own) + 1) / sum(range(1, len(own) + 1))
        torch.testing.assert_close(embedding, weights @ own, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["eos_token", "bos_token", "attention"])
def test_a_mode_that_there_is_no_pooling_for_is_refused_unless_one_is_named(adapter, mode):
    configure(adapter, pooling_mode=mode)
    with pytest.raises(UserError, match=rf"pooling_mode '{mode}'.*set `pooling`"):
        Encoder.from_pretrained(adapter)
    assert Encoder.from_pretrained(adapter, pooling="last").pooling == "last"


def test_what_it_does_otherwise_is_said(adapter):
    configure(adapter, pooling_mode="mean", skip_instruction=False, doc_max_length=400)
    with (
        pytest.warns(UserWarning, match="skip_instruction false"),
        pytest.warns(UserWarning, match="doc_max_length 400"),
    ):
        Encoder.from_pretrained(adapter)


def test_it_is_read_from_the_hub_too(hub, adapter):
    hub.publish("org/lora", configure(adapter, pooling_mode="weighted_mean"))
    assert Encoder.from_pretrained("org/lora").pooling == "weighted_mean"
