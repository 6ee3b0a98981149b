"""A corpus of a few rows, and what a folder of embeddings holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bulk_rows import ROWS

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.use.bulk.corpus import open_corpus
from llm2vec_pl.use.bulk.documents import Documents, choose_columns


@pytest.fixture(scope="session")
def encoder(llama_folder: str) -> Encoder:
    return Encoder.from_pretrained(llama_folder, dtype="float32", prompts={"find": "Find: "})


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "corpus.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


@pytest.fixture
def documents(corpus_file: Path) -> Callable[..., Documents]:
    """The corpus in files of five rows."""

    def read(path: Path = corpus_file, **options: Any) -> Documents:
        corpus = open_corpus(str(path))
        names = {"text": ["text"], "id_column": None, "keep": [], **options}
        how = {"size": names.pop("size", 5), "on_bad_row": names.pop("on_bad_row", "error")}
        return Documents(corpus, choose_columns(corpus, **names), **how)

    return read
