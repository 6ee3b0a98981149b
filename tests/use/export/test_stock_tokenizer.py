"""The exported tokenizer gives the encoder's tokens to programs that know only its files."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.use.export.stock_tokenizer import save_tokenizer, stock_tokenizer

TEXTS = ["a text", "some  blanks\n", "a </s> spelled <s> out", "日本 👩‍🚀", "x" * 300]


@pytest.fixture(scope="module")
def encoder(llama_folder) -> Encoder:
    return Encoder(llama_folder, lora_rank=0, max_length=32)


@pytest.fixture(scope="module")
def folder(encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(stock_tokenizer(encoder), folder)
    return folder


@pytest.fixture(scope="module")
def reread(folder):
    """As a program reads it that knows the model's architecture."""
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3_text"}))
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("text", TEXTS)
def test_texts_have_the_encoders_tokens(encoder, reread, text):
    own = encoder.tokenize([text])["input_ids"][0].tolist()
    assert reread(text, truncation=True)["input_ids"] == own


def test_a_prompt_alone_has_as_many_tokens_as_before_a_word(encoder, reread):
    before = int(encoder.tokenize(["word"], "Find it: ")["pooling_mask"][0].argmax())
    assert len(reread("Find it: ")["input_ids"]) == before


def test_it_pads_on_the_right(reread):
    assert reread.padding_side == "right"
    assert reread.pad_token is not None


def test_a_chat_template_is_left_out(encoder, tmp_path):
    encoder.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "config.json").write_text(json.dumps(encoder.config.to_dict()))
    (tmp_path / "model.safetensors").touch()
    chatting = Encoder(str(tmp_path), lora_rank=0)
    assert chatting.tokenizer.chat_template
    save_tokenizer(stock_tokenizer(chatting), tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template is None


def test_transformers_4_knows_the_class(folder):
    written = json.loads((folder / "tokenizer_config.json").read_text())
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_prompt_that_spells_a_control_token_keeps_it(llama_folder):
    encoder = Encoder(llama_folder, lora_rank=0, prompts={"query": "<s>find:"})
    assert not stock_tokenizer(encoder).split_special_tokens
