"""An ONNX model gives the encoder's embeddings for any texts, whatever the encoder pools."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_runs import save_run

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.use.export.export import export_encoder
from llm2vec_pl.use.export.onnx_model import Runtime, require_onnx, round_to_int8

pytestmark = pytest.mark.slow

TEXTS = ["a text", "x", "another one, which is longer 👩‍🚀", "a </s> in the <s> text"]
PROMPT = "Find the page: "


@pytest.fixture(scope="module")
def run(one_layer, tmp_path_factory) -> Path:
    """What sentence-transformers has no words for: a template that goes on, a weighted mean."""
    folder = tmp_path_factory.mktemp("runs") / "version_0"
    return save_run(one_layer, folder, template="[T] {text} [/T]", pooling="weighted_mean")


@pytest.fixture(scope="module")
def encoder(run) -> Encoder:
    return Encoder.from_pretrained(run, dtype="float32")


@pytest.fixture(scope="module")
def printed() -> list[str]:
    return []


@pytest.fixture(scope="module")
def exported(run, printed, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "out"
    return export_encoder(run, out, format="onnx", report=printed.append)


def test_the_cards_code_gives_the_encoders_embeddings(encoder, exported):
    code = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)[0]
    names: dict = {}
    exec(code.replace("PATH", str(exported)), names)
    plain = TEXTS[:3]  # the card's tokenizer takes spelled-out control tokens for control tokens
    for prompt in ("", PROMPT):
        expected = encoder.encode(plain, prompt=prompt, normalize_embeddings=True)
        np.testing.assert_allclose(names["embed"](plain, prompt), expected, atol=1e-5)


def test_any_number_of_texts_of_any_length_is_taken(encoder, exported):
    for texts in (TEXTS[:1], TEXTS, TEXTS * 5):
        got = Runtime(exported / "model.onnx", encoder.tokenize, batch_size=20).embed(texts, PROMPT)
        expected = encoder.encode(texts, prompt=PROMPT, normalize_embeddings=True)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_the_cosines_and_the_time_beside_torch_are_printed(exported, printed):
    line = next(line for line in printed if line.startswith("onnxruntime gives"))
    assert "cosine 1.000000 at least" in line
    assert re.search(r"takes \d+\.\d\d times as long as this package's encoder", line)


def test_int8_takes_less_room_and_stays_close(encoder, exported, tmp_path):
    file = tmp_path / "model.onnx"
    shutil.copyfile(exported / "model.onnx", file)
    round_to_int8(file)
    # Its layer has 8,000 weights; the embedding table, which has most of them, stays as it is.
    assert file.stat().st_size < (exported / "model.onnx").stat().st_size - 2 * 8_000
    got = Runtime(file, encoder.tokenize, batch_size=4).embed(TEXTS, "")
    expected = encoder.encode(TEXTS, normalize_embeddings=True)
    assert 0.98 < float((got * expected).sum(dim=-1).min()) < 0.9999999


def test_without_onnx_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(UserError, match=r'pip install "llm2vec_pl\[onnx\]"'):
        require_onnx()
