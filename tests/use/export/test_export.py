"""An exported folder opens elsewhere and gives the encoder's embeddings, or is not written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from exported_runs import save_run
from saved_models import save_model, small_llama
from tei_rules import RefusedError, read_as_tei
from torch import Tensor
from transformers import NemotronConfig, Qwen2Config, Qwen3Config

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.use.export.export import export_encoder

TEXTS = ["a text", "another one, which is longer", "そして日本語 👩‍🚀", "a </s> in the <s> text"]
QWEN = {
    "vocab_size": 8192,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def expected(run: Path, prompt: str = "", **how: object) -> Tensor:
    encoder = Encoder.from_pretrained(run, dtype="float32", **how)
    return encoder.encode(TEXTS, prompt=prompt, normalize_embeddings=True)


def opened(folder: Path):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def test_sentence_transformers_gives_the_same_embeddings_without_and_with_a_prompt(run, exported):
    model = opened(exported)
    documents = torch.from_numpy(model.encode_document(TEXTS))
    queries = torch.from_numpy(model.encode_query(TEXTS))
    torch.testing.assert_close(documents, expected(run), atol=1e-5, rtol=0)
    torch.testing.assert_close(queries, expected(run, "Find the page:\n"), atol=1e-5, rtol=0)
    assert model.max_seq_length == 48


def test_a_transformers_that_would_read_left_to_right_is_refused(exported, monkeypatch):
    from sentence_transformers.util import environment

    monkeypatch.setattr(environment, "get_installed_version", lambda name: "4.57.6")
    with pytest.raises(ImportError, match=r"transformers>=5\.2.*left to right"):
        opened(exported)
    assert "needs transformers 5.2 or later" in (exported / "README.md").read_text()


def test_a_causal_encoder_needs_no_certain_transformers(llama_folder, tmp_path):
    run = save_run(llama_folder, tmp_path / "run", bidirectional=False)
    out = export_encoder(run, tmp_path / "out")
    settings = json.loads((out / "config_sentence_transformers.json").read_text())
    assert "requirements" not in settings
    assert "needs transformers" not in (out / "README.md").read_text()


def test_this_package_opens_an_export_too(run, exported):
    encoder = Encoder.from_pretrained(exported, dtype="float32")
    got = encoder.encode_query(TEXTS, normalize_embeddings=True)
    torch.testing.assert_close(got, expected(run, "Find the page:\n"), atol=1e-5, rtol=0)


def test_everybody_may_read_what_the_umask_allows(exported):
    assert {oct(file.stat().st_mode & 0o444) for file in exported.rglob("*.*")} == {"0o444"}


def test_text_embeddings_inference_would_serve_an_export(exported):
    served = read_as_tei(exported)
    assert served["pooling"] == "mean"
    assert served["bidirectional"]
    assert served["max_input_length"] == 48
    assert served["prompts"]["query"] == "Find the page:\n"


def test_text_embeddings_inference_would_not_serve_what_sentence_transformers_writes(
    exported, tmp_path
):
    opened(exported).save_pretrained(str(tmp_path))
    with pytest.raises(RefusedError):
        read_as_tei(tmp_path)


@pytest.mark.slow
def test_qwen3_is_exported_so_that_it_is_served(tmp_path):
    base = save_model(Qwen3Config(**QWEN), tmp_path / "base")
    run = save_run(base, tmp_path / "run", pooling="last")
    served = read_as_tei(export_encoder(run, tmp_path / "out"))
    assert served["pooling"] == "last-token"
    assert served["bidirectional"]


@pytest.mark.slow
def test_the_card_does_not_promise_that_qwen2_is_served(tmp_path):
    base = save_model(Qwen2Config(**QWEN), tmp_path / "base")
    out = export_encoder(save_run(base, tmp_path / "run"), tmp_path / "out")
    with pytest.raises(RefusedError, match=r"cannot find tensor model\."):
        read_as_tei(out)
    assert "does not take qwen2 in this form" in (out / "README.md").read_text()


@pytest.mark.slow
def test_the_start_of_a_template_precedes_every_text(llama_folder, tmp_path):
    run = save_run(llama_folder, tmp_path / "run", template="Text:\n{text}")
    model = opened(export_encoder(run, tmp_path / "out"))
    for got, prompt in [
        (model.encode(TEXTS), ""),
        (model.encode_query(TEXTS), "Find the page:\n"),
        (model.encode_document(TEXTS), ""),
    ]:
        torch.testing.assert_close(torch.from_numpy(got), expected(run, prompt), atol=1e-5, rtol=0)


def test_a_decoder_that_needs_this_package_to_read_both_ways_is_refused_and_leaves_nothing(
    tmp_path,
):
    base = save_model(NemotronConfig(**QWEN), tmp_path / "base")
    run = save_run(base, tmp_path / "run")
    (tmp_path / "exports").mkdir()
    with pytest.raises(UserError, match=r"nemotron reads both ways only with this package.*onnx"):
        export_encoder(run, tmp_path / "exports" / "out")
    assert not list((tmp_path / "exports").iterdir())


def test_an_earlier_export_is_replaced_and_other_folders_are_not(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("three years")
    with pytest.raises(UserError, match=r"`out`: .* exists, and is not an export"):
        export_encoder(run, out)
    (out / "thesis.txt").rename(out / "modules.json")
    export_encoder(run, out, prompts={"passage": "Page:\n"})
    served = read_as_tei(out)
    assert served["prompts"] == {"query": "", "document": "Page:\n", "passage": "Page:\n"}


def test_an_export_does_not_replace_what_it_is_made_from(exported):
    with pytest.raises(UserError, match=r"`out`: .* holds .*, which is exported"):
        export_encoder(exported, exported)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "gguf"}, "`format` is one of sentence-transformers, onnx, but got 'gguf'"),
        ({"int8": True}, "`int8` is for ONNX models"),
        ({"format": "onnx", "dtype": "bfloat16"}, "ONNX models are written in float32"),
        ({"push_to_hub": "mine"}, "`push_to_hub` is a repository on the hub, as in ORG/NAME"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_read(arguments, message, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)):
        export_encoder("no such run", tmp_path / "out", **arguments)


def test_the_card_says_what_it_was_made_from_and_its_code_runs(exported):
    card = (exported / "README.md").read_text()
    assert "| supervised | 7 | E5 echo-data | val/loss 0.25 |" in card
    assert "cosine 1.000000 at least" in card
    assert "pool every token that they read" in card
    assert "vllm serve PATH --runner pooling" in card
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    exec(code.replace("PATH", str(exported)), {})


OUTSIDE = """
import json, sys
from mteb.models import SentenceTransformerEncoderWrapper
model = SentenceTransformerEncoderWrapper(sys.argv[1], device="cpu").model
print(json.dumps(model.encode_query(json.loads(sys.argv[2])).tolist()))
assert "llm2vec_pl" not in sys.modules
"""


@pytest.mark.exhaustive
def test_mteb_gives_the_same_embeddings_in_a_process_without_this_package(run, exported):
    command = [sys.executable, "-c", OUTSIDE, str(exported), json.dumps(TEXTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    got = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    torch.testing.assert_close(got, expected(run, "Find the page:\n"), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_run_on_4_bits_and_bfloat16_is_merged_into_full_weights(llama_folder, tmp_path):
    run = save_run(llama_folder, tmp_path / "run", quantization="nf4", dtype="bfloat16")
    with pytest.warns(UserWarning, match="trained on weights in nf4"):
        out = export_encoder(run, tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    with pytest.warns(UserWarning, match="trained on weights in nf4"):
        merged = expected(run, quantization=None)
    got = torch.from_numpy(opened(out).float().encode(TEXTS))
    assert float((got * merged).sum(dim=-1).min()) > 0.999


@pytest.mark.slow
def test_llama_3_keeps_its_scaled_positions(tmp_path):
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    base = save_model(small_llama(rope_parameters=rope, eos_token_id=[1, 2]), tmp_path / "base")
    out = export_encoder(save_run(base, tmp_path / "run"), tmp_path / "out")
    with pytest.raises(RefusedError, match="rope_scaling"):  # rather than serve other embeddings
        read_as_tei(out)
