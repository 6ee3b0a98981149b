import json
import re
import sys
from functools import partial

import pytest
import torch

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.analysis import (
    ANALYSES,
    Material,
    analyse,
    chosen_analyses,
    named_encoders,
    read_triples,
)

opened = partial(Encoder.from_pretrained, dtype="float32")
TEXTS = [f"{word} " * 30 for word in ("sea", "ship", "wave")]


@pytest.fixture(scope="module")
def trained(llama_folder, tmp_path_factory):
    encoder = Encoder(llama_folder, lora_rank=2, max_length=64).load()
    for name, weight in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return str(save_encoder(encoder, tmp_path_factory.mktemp("runs") / "mntp"))


def test_the_decoder_is_that_of_the_trained_encoders(trained, llama_folder):
    encoders = named_encoders([f"mntp={trained}"], {})
    assert list(encoders) == ["causal", "bidirectional", "mntp"]
    causal, both, mntp = (encoders[name](attention=None) for name in encoders)
    assert (causal.bidirectional, both.bidirectional) == (False, True)
    assert causal.source.base == mntp.source.base == llama_folder
    assert causal.adapters == []
    assert {e.tokenize.max_length for e in (causal, both, mntp)} == {128}
    assert {e.dtype for e in (causal, both, mntp)} == {"float32"}
    assert not torch.equal(both.encode("a text"), mntp.encode("a text"))


def test_the_embedded_decoder_is_the_default_and_flags_are_for_all(llama_folder):
    assert named_encoders([], {})["causal"].args[0] == "tiny"
    encoders = named_encoders([], {"model_name": llama_folder, "pooling": "last"})
    assert encoders["bidirectional"](attention="eager").pooling == "last"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["causal=runs/x"], "causal and bidirectional are the decoder, but got 'causal=runs/x'"),
        (["mntp="], "NAME=FOLDER, but got 'mntp='"),
        (["mntp=runs/nowhere"], "no finished run in runs/nowhere"),
    ],
)
def test_a_wrong_name_is_an_error_before_anything_is_loaded(names, message):
    with pytest.raises(UserError, match=message):
        named_encoders(names, {})


def test_an_unknown_analysis_is_an_error_that_lists_them():
    assert chosen_analyses(" future, attention,future") == ["future", "attention"]
    with pytest.raises(UserError, match=",".join(ANALYSES) + ".*'futur'"):
        chosen_analyses("futur")
    with pytest.raises(UserError, match="at least one"):
        chosen_analyses(",")


@pytest.fixture
def material():
    return Material(triples=read_triples(limit=4), texts=TEXTS, length=12)


def test_what_is_found_is_printed_written_and_drawn(llama_folder, material, tmp_path, capsys):
    encoders = {
        name: partial(opened, llama_folder, bidirectional=name != "causal")
        for name in ("causal", "bidirectional")
    }
    names = ["future", "similarity", "attention"]
    found = analyse(encoders, names, material, tmp_path, print)
    printed = capsys.readouterr().out
    assert "causal: future, similarity, attention" in printed
    assert re.search(r"causal +│ +1.000 │ +1.000 │ +-?0.000 │ +0.500", printed)
    assert "Uniform attention gives later tokens 0.458." in " ".join(printed.split())
    for name in names:
        written = json.loads((tmp_path / f"{name}.json").read_text())
        assert written["encoders"].keys() == found[name].keys()
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert list(found["similarity"]) == ["bidirectional"]  # the others are compared with causal
    assert json.loads((tmp_path / "future.json").read_text())["encoders"] == found["future"]


def test_what_the_encoders_before_a_failure_gave_is_written(llama_folder, material, tmp_path):
    def fails(attention):
        raise UserError("no such weights")

    encoders = {"causal": partial(opened, llama_folder, bidirectional=False), "broken": fails}
    with pytest.raises(UserError, match="no such weights"):
        analyse(encoders, ["future"], material, tmp_path, print)
    assert list(json.loads((tmp_path / "future.json").read_text())["encoders"]) == ["causal"]


def test_without_matplotlib_the_numbers_are_written(llama_folder, material, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    lines = []
    encoders = {"causal": partial(opened, llama_folder, bidirectional=False)}
    analyse(encoders, ["future"], material, tmp_path, lines.append)
    assert "pip install matplotlib" in lines[-1]
    assert (tmp_path / "future.json").exists()
    assert not (tmp_path / "future.png").exists()


def test_encoders_that_read_other_tokens_are_not_compared(llama_folder, material, tmp_path):
    encoders = {
        "causal": partial(opened, llama_folder, bidirectional=False),
        "other": partial(opened, llama_folder, template="query: {text}"),
    }
    with pytest.raises(UserError, match="another tokenizer or template"):
        analyse(encoders, ["similarity"], material, tmp_path, print)
