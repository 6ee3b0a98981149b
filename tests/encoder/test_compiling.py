"""torch.compile, layer by layer: the same embeddings and gradients, compiled once for all batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from contrastive_texts import QUERIES
from first_cases import slow_and_exhaustive
from saved_models import save_model, small_llama
from torch import Tensor, nn
from transformers import Gemma3TextConfig

from llm2vec_pl.bidirectional import check_bidirectional
from llm2vec_pl.decoder import decoder_layers
from llm2vec_pl.encoder.compiling import CXX, require_compiler
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError

TEXTS = ["a text", "", "another text, somewhat longer than the first one", "three small words"]


@pytest.fixture
def graphs(monkeypatch) -> Iterator[list[Any]]:
    """The graphs that are compiled, which run as they are: compiling takes seconds."""
    found: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        found.append(graph)
        return graph.forward

    compiled = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda module, **how: compiled(module, backend=backend, **how)
    )
    torch.compiler.reset()
    yield found
    torch.compiler.reset()


def gradients(encoder: Encoder, texts: list[str]) -> dict[str, Tensor]:
    encoder.train()
    encoder(encoder.tokenize(texts)).square().sum().backward()
    return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("padding_free", slow_and_exhaustive([True, False]))
def test_a_compiled_encoder_gives_the_same_embeddings_and_gradients(
    llama_folder, graphs, padding_free
):
    options = {"padding_free": padding_free, "lora_dropout": 0.0}
    torch.manual_seed(0)
    usual = Encoder(llama_folder, **options).load()
    torch.manual_seed(0)
    compiled = Encoder(llama_folder, **options, compile=True).load()
    assert compiled.packs == padding_free
    torch.testing.assert_close(compiled.encode(TEXTS), usual.encode(TEXTS))
    assert graphs
    torch.testing.assert_close(gradients(compiled, TEXTS), gradients(usual, TEXTS))


@pytest.mark.slow
def test_gradient_checkpointing_works_on_compiled_layers(llama_folder, graphs):
    options = {"lora_dropout": 0.0, "gradient_checkpointing": True}
    torch.manual_seed(0)
    usual = Encoder(llama_folder, **options).load()
    torch.manual_seed(0)
    compiled = Encoder(llama_folder, **options, compile=True).load()
    torch.testing.assert_close(gradients(compiled, TEXTS), gradients(usual, TEXTS))
    assert graphs


def test_neither_more_layers_nor_batches_of_other_lengths_compile_anew(graphs, tmp_path):
    config = small_llama(num_hidden_layers=12)
    encoder = Encoder(str(save_model(config, tmp_path / "model")), lora_rank=0, compile=True)
    encoder.encode(TEXTS)
    encoder.encode("one text is not packed")
    first = len(graphs)
    encoder.encode(QUERIES)
    encoder.encode([" ".join(TEXTS), "one"])
    encoder.encode("another text, which is longer")
    assert len(graphs) == first
    assert first < 8


@pytest.mark.slow
@pytest.mark.exhaustive
def test_layers_of_two_kinds_are_compiled_once_each(graphs, tmp_path):
    """Gemma 3's layers differ in their windows."""
    config = Gemma3TextConfig(
        vocab_size=8192,
        pad_token_id=0,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=8,
    )
    folder = str(save_model(config, tmp_path / "gemma"))
    usual = Encoder(folder, lora_rank=0).load()
    compiled = Encoder(folder, lora_rank=0, compile=True).load()
    torch.testing.assert_close(compiled.encode(TEXTS), usual.encode(TEXTS))
    first = len(graphs)
    compiled.encode(QUERIES)
    assert len(graphs) == first < 16


def test_the_probe_of_a_training_run_compiles_nothing(llama_folder, graphs):
    check_bidirectional(Encoder(llama_folder, compile=True).load().decoder)
    assert not graphs


def test_only_layers_are_compiled(llama_folder, graphs):
    encoder = Encoder(llama_folder, compile=True).load()
    compiled = {m for m in encoder.modules() if m._compiled_call_impl is not None}
    assert compiled == set(decoder_layers(encoder.decoder).values())


def test_a_cpu_without_a_compiler_is_refused_before_any_weights_are_read(llama_folder, monkeypatch):
    monkeypatch.setenv(CXX, "no-such-compiler")
    with pytest.raises(
        UserError, match="`compile=True` needs a C\\+\\+ compiler.*no-such-compiler"
    ):
        Encoder(llama_folder, compile=True).load()
    require_compiler(torch.device("meta"))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_what_a_compiler_makes_gives_the_same_embeddings(llama_folder):
    usual, compiled = (Encoder(llama_folder, lora_rank=0, compile=c).load() for c in (False, True))
    torch.testing.assert_close(compiled.encode(TEXTS), usual.encode(TEXTS), atol=1e-5, rtol=1e-4)
