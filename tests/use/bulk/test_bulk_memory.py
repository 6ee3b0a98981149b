"""Neither the corpus nor its embeddings are ever all in memory."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from llm2vec_pl.use.bulk.corpus import open_corpus
from llm2vec_pl.use.bulk.documents import Documents, choose_columns
from llm2vec_pl.use.bulk.run import embed_corpus

MEBI = 2**20
SIZE, PER_FILE = 1024, 500
ROWS = 20_000  # 80 MiB of embeddings, 40 MiB of texts


def status(entry: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{entry}:\s*(\d+) kB", text)[1]) * 1024


def corpus(path: Path, rows: int) -> Documents:
    with path.open("w") as file:
        for i in range(rows):
            file.write(json.dumps({"text": f"{i} " * 300}) + "\n")
    opened = open_corpus(str(path))
    return Documents(opened, choose_columns(opened, keep=["text"]), PER_FILE)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_a_long_corpus_takes_no_more_memory_than_a_short_one(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(type(encoder), "embedding_size", SIZE)
    monkeypatch.setattr(
        type(encoder), "encode", lambda s, texts, **how: torch.rand(len(texts), SIZE)
    )
    settings = {"accelerator": "cpu", "devices": 1, "report": lambda line: None}
    embed_corpus(
        encoder, corpus(tmp_path / "short.jsonl", 3 * PER_FILE), tmp_path / "a", **settings
    )
    documents = corpus(tmp_path / "long.jsonl", ROWS)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    assert embed_corpus(encoder, documents, tmp_path / "b", **settings).rows == ROWS
    assert (tmp_path / "long.jsonl").stat().st_size > 25 * MEBI
    assert sum(file.stat().st_size for file in (tmp_path / "b").iterdir()) > 70 * MEBI
    assert status("VmHWM") - before < 25 * MEBI
