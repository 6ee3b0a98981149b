"""`llm2vec_config.json` as the reference implementation writes it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft_adapters import train_lora
from tokenizers import Tokenizer, models, normalizers, trainers
from transformers import AutoModelForCausalLM

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.encoder.reference_tokenizer import ReferenceTokenizer
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
        configure(adapter, pooling_mode="weighted_mean"), dtype="float32", reference_quirks=False
    )
    batch = encoder.tokenize(TEXTS)
    with torch.no_grad():
        states = encoder.hidden_states(batch)
    for row, embedding in enumerate(encoder.encode(TEXTS)):
        own = states[row][batch["pooling_mask"][row].bool()]
        weights = torch.arange(1, len(own) + 1) / sum(range(1, len(own) + 1))
        torch.testing.assert_close(embedding, weights @ own, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("mode", "quirks"), [("eos_token", False), ("bos_token", False), ("attention", True)]
)
def test_a_mode_that_there_is_no_pooling_for_is_refused_unless_one_is_named(adapter, mode, quirks):
    configure(adapter, pooling_mode=mode)
    how = {"reference_quirks": quirks}
    with pytest.raises(UserError, match=rf"pooling_mode '{mode}'.*set `pooling`"):
        Encoder.from_pretrained(adapter, **how)
    assert Encoder.from_pretrained(adapter, pooling="last", **how).pooling == "last"


def test_what_it_does_otherwise_is_said(adapter):
    configure(adapter, pooling_mode="mean", skip_instruction=False, doc_max_length=400)
    with (
        pytest.warns(UserWarning, match="skip_instruction false"),
        pytest.warns(UserWarning, match="doc_max_length 400"),
    ):
        Encoder.from_pretrained(adapter, reference_quirks=False)


def test_it_is_read_from_the_hub_too(hub, adapter):
    hub.publish("org/lora", configure(adapter, pooling_mode="weighted_mean"))
    assert Encoder.from_pretrained("org/lora").pooling == "weighted_mean"


def test_the_settings_of_the_last_adapter_count(adapter, llama_folder, tmp_path):
    second = tmp_path / "second"
    shutil.copytree(adapter, second)
    configure(adapter, pooling_mode="mean", max_length=64)
    configure(second, pooling_mode="last_token", max_length=32, doc_max_length=16)
    encoder = Encoder.from_pretrained(adapter, adapters=[str(second)])
    assert (encoder.pooling, encoder.tokenize.max_length) == ("last", 32)
    assert encoder.tokenize.rules["doc_max_length"] == 16


def test_only_its_own_folders_are_read_as_it_reads_them(adapter, llama_folder, tmp_path):
    assert "reference_quirks" not in Encoder.from_pretrained(adapter).settings()
    configure(adapter, pooling_mode="mean")
    assert Encoder.from_pretrained(adapter).settings()["reference_quirks"]
    assert Encoder.from_pretrained(adapter, reference_quirks=None).settings()["reference_quirks"]
    assert "reference_quirks" not in Encoder(str(adapter), lora_rank=0).settings()
    changed = Encoder.from_pretrained(adapter, reference_quirks=False)
    assert "reference_quirks" not in changed.settings()


def test_any_model_can_be_read_as_it_reads_its_own(llama_folder):
    encoder = Encoder(llama_folder, reference_quirks=True)
    assert isinstance(encoder.tokenize, ReferenceTokenizer)
    assert encoder.tokenize.doc_max_length == 400
    with pytest.raises(UserError, match=r'`template="chat"` cannot be used with'):
        Encoder(llama_folder, reference_quirks=True, template="chat")


def test_a_saved_encoder_keeps_reading_as_it_does(adapter, tmp_path):
    """Its name, by which the template was chosen, is no longer known then."""
    config = {"_name_or_path": "meta-llama/Llama-2-7b-chat-hf", "auto_map": {"AutoModel": "a.B"}}
    (adapter / "config.json").write_text(json.dumps(config))
    configure(adapter, pooling_mode="eos_token", max_length=64, doc_max_length=24)
    encoder = Encoder.from_pretrained(adapter, dtype="float32")
    assert encoder.tokenize.template == "[INST] {text} [/INST] </s>"
    folder = save_encoder(encoder, tmp_path / "saved")
    again = Encoder.from_pretrained(folder, dtype="float32")
    assert again.tokenize.rules == encoder.tokenize.rules
    instruction = "Find it:"
    torch.testing.assert_close(
        again.encode(TEXTS, instruction), encoder.encode(TEXTS, instruction), atol=1e-5, rtol=1e-4
    )
    plain = Encoder.from_pretrained(folder, reference_quirks=False)
    assert not {"reference_quirks", "doc_max_length"} & plain.settings().keys()
    other = Encoder.from_pretrained(save_encoder(plain, tmp_path / "plain"))
    assert not isinstance(other.tokenize, ReferenceTokenizer)


def test_a_second_adapter_without_the_first_is_named(adapter, tmp_path):
    name = tmp_path / "LLM2Vec-Model-mntp-supervised"
    shutil.copytree(configure(adapter, pooling_mode="mean"), name)
    with pytest.warns(UserWarning, match=r"trained on top of .*LLM2Vec-Model-mntp, as its name"):
        Encoder.from_pretrained(name)


def test_a_begin_token_that_is_not_there_cannot_be_pooled(adapter):
    file = adapter / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    file.write_text(json.dumps({**tokenizer, "post_processor": None}))
    configure(adapter, pooling_mode="bos_token")
    with pytest.raises(UserError, match=r"'bos_token', but the tokenizer writes no begin token"):
        Encoder.from_pretrained(adapter)


def write_llama_tokenizer(folder: Path) -> None:
    """A tokenizer like that of Llama 2, whose normalizer begins each text with a blank."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    blanks = normalizers.Replace(" ", "\u2581")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), blanks])
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["a text", "  another text"] * 9, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')


def test_its_tokens_are_those_of_tokenizer_json(adapter):
    """transformers 5 leaves the file's normalizer out where the class is Llama's."""
    write_llama_tokenizer(adapter)
    expected = Tokenizer.from_file(str(adapter / "tokenizer.json")).encode("  a text").ids
    found = Encoder(str(adapter), reference_quirks=True).tokenize(["  a text"])
    assert found["input_ids"][0].tolist() == expected
    without = Encoder(str(adapter)).tokenize(["  a text"])
    assert [i for i in without["input_ids"][0].tolist() if i > 2] != expected


@pytest.mark.parametrize("length", [0, None, "400"])
def test_a_length_that_is_none_is_refused(adapter, length):
    configure(adapter, pooling_mode="mean", doc_max_length=length)
    with pytest.raises(UserError, match="doc_max_length to be a whole number of at least 1 token"):
        Encoder(str(adapter), reference_quirks=True)
