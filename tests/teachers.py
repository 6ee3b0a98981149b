"""Teachers to learn from: a small model of sentence-transformers, made here."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from llm2vec_pl.decoder.source import TINY


def word_vectors(folder: Path, size: int = 16) -> str:
    """A model of sentence-transformers that takes the mean of random vectors of the tokens."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    torch.manual_seed(3)
    vectors = torch.randn(tokenizer.get_vocab_size(), size).numpy()
    module = StaticEmbedding(tokenizer, embedding_weights=vectors)
    SentenceTransformer(modules=[module], device="cpu").save(str(folder))
    assert json.loads((folder / "modules.json").read_text())
    return str(folder)


def quiet(**options: object) -> Trainer:
    """A trainer on the CPU that prints and writes nothing."""
    settings: dict = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return Trainer(**{**settings, **options})
