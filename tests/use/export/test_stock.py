"""What sentence-transformers cannot say of an encoder is refused; the rest is said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.use.export.stock import counted_otherwise, stock


def loaded(folder: str, **arguments) -> Encoder:
    return Encoder(folder, lora_rank=0, **arguments).load()


@pytest.fixture(scope="module")
def bare_folder(llama_folder, tmp_path_factory) -> str:
    """The same decoder with a tokenizer that adds nothing to a text."""
    return with_post_processor(llama_folder, tmp_path_factory.mktemp("bare"), "$A")


@pytest.fixture(scope="module")
def ending_folder(llama_folder, tmp_path_factory) -> str:
    """The same decoder with a tokenizer that ends each text with a control token."""
    return with_post_processor(llama_folder, tmp_path_factory.mktemp("ending"), "$A </s>")


def with_post_processor(folder: str, target: Path, template: str) -> str:
    shutil.copytree(folder, target, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[("</s>", tokenizer.convert_tokens_to_ids("</s>"))]
    )
    tokenizer.save_pretrained(target)
    return str(target)


def test_control_tokens_of_the_tokenizer_are_read_and_weigh_nothing(llama_folder, bare_folder):
    assert stock(loaded(llama_folder)).unpooled == ["<s>"]
    assert stock(loaded(bare_folder)).unpooled == []


def test_each_pooling_has_its_flag(bare_folder):
    encoder = loaded(bare_folder)
    flags = {}
    for encoder.pooling in ("mean", "weighted_mean", "last", "first"):
        flags[encoder.pooling] = stock(encoder).pooling
    assert flags == {
        "mean": "pooling_mode_mean_tokens",
        "weighted_mean": "pooling_mode_weightedmean_tokens",
        "last": "pooling_mode_lasttoken",
        "first": "pooling_mode_cls_token",
    }


@pytest.mark.parametrize(
    ("folder", "arguments", "reason"),
    [
        ("llama_folder", {"pooling": "first"}, "begins each text with <s>"),
        ("llama_folder", {"pooling": "weighted_mean"}, "counts the weights from the first token"),
        ("bare_folder", {"pooling": "weighted_mean", "prompts": {"query": "find "}}, "a prompt"),
        ("ending_folder", {"pooling": "last"}, "ends each text with </s>"),
        ("bare_folder", {"template": "[INST] {text} [/INST]"}, "goes on after the text"),
    ],
)
def test_what_has_no_words_is_refused_with_the_reason(folder, arguments, reason, request):
    encoder = loaded(request.getfixturevalue(folder), **arguments)
    with pytest.raises(UserError, match=f"{reason}.*format='onnx'"):
        stock(encoder)


def test_documents_have_the_prompt_of_passages(bare_folder):
    words = stock(loaded(bare_folder, prompts={"passage": "p:\n"}, template="Text:\n{text}"))
    assert words.prompts == {
        "query": "Text:\n",
        "document": "Text:\np:\n",
        "passage": "Text:\np:\n",
        "template": "Text:\n",
    }


def test_it_is_known_before_which_texts_a_last_blank_is_a_token(llama_folder):
    encoder = loaded(llama_folder)
    words = stock(encoder)
    texts = ["word", "👩 first"]
    assert counted_otherwise(encoder, words, texts, "Find: ").tolist() == [False, True]
    assert not counted_otherwise(encoder, words, texts, "Find:\n").any()
    assert not counted_otherwise(encoder, words, texts, "").any()
