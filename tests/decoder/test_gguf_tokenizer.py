"""The tokenizer in a GGUF gives the tokens that the decoder was trained on."""

from __future__ import annotations

import pytest
import torch
from gguf_files import few_tokens, few_tokens_tokenizer, write_gguf
from tokenizers import Tokenizer, pre_tokenizers

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.objectives import MNTP

TEXTS = [
    "hello world",
    "  two  blanks 12\n\n1. a list\n\n22",
    "zero\u200bwidth \x00\x01 and \ufffd",
    "日本語 😀 e\u0301 ½ ²",
    "spelled out: <s> </s> <pad> <mask>",
    "",
]


@pytest.fixture
def opened(tmp_path):
    def write(**entries):
        file = tmp_path / "model.gguf"
        write_gguf(
            few_tokens(), file, entries={f"tokenizer.ggml.{k}": v for k, v in entries.items()}
        )
        return Encoder(str(file))

    return write


def test_it_gives_the_tokens_of_the_original(opened):
    tokenizer, original = opened().tokenizer, few_tokens_tokenizer()
    assert [tokenizer(t).input_ids for t in TEXTS] == [original(t).input_ids for t in TEXTS]
    for token in ("bos_token", "eos_token", "pad_token"):
        assert getattr(tokenizer, token) == getattr(original, token)
    assert set(tokenizer.all_special_ids) == {0, 1, 2}


@pytest.mark.parametrize("rule", ["smollm", "starcoder"])
def test_digits_are_words_of_their_own_where_they_were_in_training(opened, rule):
    original = Tokenizer.from_str(few_tokens_tokenizer().backend_tokenizer.to_str())
    gpt2 = original.encode("a  12\n\n1").tokens
    original.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer = opened(pre=rule).tokenizer
    assert [tokenizer(t).input_ids for t in TEXTS] == [original.encode(t).ids for t in TEXTS]
    assert tokenizer("a  12\n\n1").tokens() != gpt2


@pytest.mark.parametrize(
    ("rule", "flag", "begins"),
    [("llama-bpe", None, True), ("llama-bpe", False, False), ("gpt-2", None, False)],
)
def test_texts_begin_with_bos_where_llama_cpp_begins_them_so(opened, rule, flag, begins):
    tokenizer = opened(pre=rule, add_bos_token=flag).tokenizer
    assert (tokenizer("a text").input_ids[0] == tokenizer.bos_token_id) == begins
    assert tokenizer.backend_tokenizer.model.ignore_merges == (rule == "llama-bpe")


def test_a_rule_that_nobody_knows_is_said(opened):
    with pytest.warns(UserWarning, match="cuts texts into words by the rule 'klingon'"):
        opened(pre="klingon")


def test_the_mask_token_of_the_file_is_the_tokenizers(opened):
    assert opened(mask_token_id=3).tokenizer.mask_token == "<mask>"


@pytest.mark.parametrize("mask_token", ["_", "eos", "mask"])
def test_mntp_trains_with_any_mask_token_and_padding(opened, mask_token):
    encoder = opened(mask_token_id=3)
    objective = MNTP(encoder, mask_token=mask_token, mask_probability=0.9)
    encoder.load()
    batch = objective.labelled(encoder.tokenize(["a longer text with words", "short"]))
    assert (batch["input_ids"] == objective.mask_token_id).any()
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    assert torch.isfinite(encoder.hidden_states(batch)).all()
