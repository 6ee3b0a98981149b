"""Folders like those that llm2vec publishes, with the embeddings that llm2vec 0.2.3 gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from published_folders import CASES, RECORD, as_published, rows

from benchmarks.old_folder import copy_as_of_old
from llm2vec_pl.decoder import TINY
from llm2vec_pl.encoder.encoder import Encoder

RECORDED = json.loads(RECORD.read_text())


@pytest.fixture(scope="module")
def old_tiny(tmp_path_factory) -> Path:
    """The embedded decoder as transformers 4.44 reads it."""
    folder = tmp_path_factory.mktemp("old") / "tiny"
    copy_as_of_old(TINY, folder)
    return folder


def publish(case: str, root: Path, base: Path, **settings: Any) -> tuple[str, list[str]]:
    changed = {**CASES[case], **settings}
    mntp, further = as_published(root, changed, RECORDED["folders"], str(base), base)
    return str(mntp), [str(folder) for folder in further]


@pytest.mark.parametrize("case", CASES)
def test_a_published_folder_gives_the_embeddings_of_the_reference(case, tmp_path, old_tiny):
    name, further = publish(case, tmp_path, old_tiny)
    encoder = Encoder.from_pretrained(name, adapters=further, dtype="float32")
    instructions, texts = zip(*rows(CASES[case]), strict=True)
    found = encoder.encode(texts, instructions)
    expected = torch.tensor(RECORDED["embeddings"][case])
    norms = found.norm(dim=1, keepdim=True)
    difference = ((found[:, :: RECORDED["every"]] - expected) / norms).abs().amax(dim=1)
    print(case, difference.max(), difference.argmax())
    assert difference.max() <= 1e-5
