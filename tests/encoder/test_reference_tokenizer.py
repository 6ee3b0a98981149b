"""Tokens as llm2vec 0.2.3 makes them, against its own lines in plain form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llm2vec_pl.decoder import TINY
from llm2vec_pl.encoder.reference_tokenizer import SEPARATOR, ReferenceTokenizer
from llm2vec_pl.encoder.tokenizer import TextTokenizer

TOKENIZER = AutoTokenizer.from_pretrained(TINY)
OTHER = AutoTokenizer.from_pretrained(TINY)  # transformers' calls below change its settings
TEMPLATE = "[INST] {text} [/INST]"
PARTS = ["word", "two words", " ", "\n", "</s>", SEPARATOR, "語", "tail.", "a" * 30, ""]


def llm2vec(text, instruction, template, max_length, doc_max_length):
    """`_convert_to_str`, `prepare_for_tokenization` and `tokenize`: ids, and how many are pooled."""

    def ids(row, special):
        cut = {"truncation": True, "max_length": max_length}
        return OTHER(row, add_special_tokens=special, **cut)["input_ids"]

    length = len(ids(text, False))
    while length > doc_max_length:
        words = text.split()
        text = " ".join(words[: int(len(words) * (doc_max_length / length))])
        length = len(ids(text, False))
    row = f"{instruction.strip()} {SEPARATOR}{text}" if instruction else f"{SEPARATOR}{text}"
    if template:
        row = template.replace("{text}", row.strip())
    parts = row.split(SEPARATOR)
    return ids("".join(parts), True), len(ids(parts[1], False))


@given(
    text=st.lists(st.sampled_from(PARTS), max_size=40).map("".join),
    instruction=st.lists(st.sampled_from(PARTS), max_size=20).map("".join),
    template=st.sampled_from([None, TEMPLATE]),
    lengths=st.sampled_from([(512, 400), (24, 16), (16, 24)]),
)
def test_any_row_has_the_tokens_of_the_reference(text, instruction, template, lengths):
    tokenize = ReferenceTokenizer(TOKENIZER, lengths[0], template, lengths[1])
    batch = tokenize([text], instruction)
    ids, pooled = llm2vec(text, instruction, template, *lengths)
    assert batch["input_ids"][0].tolist() == ids
    assert batch["pooling_mask"].sum() == (pooled or len(ids))
    assert batch["pooling_mask"][0].tolist() == sorted(batch["pooling_mask"][0].tolist())
    assert tokenize.lengths([text], instruction) == [len(ids)]


def test_what_is_pooled_differs_from_what_we_pool():
    theirs = ReferenceTokenizer(TOKENIZER, template=TEMPLATE)(["a text"], "Find it: ")
    ours = TextTokenizer(TOKENIZER, template=TEMPLATE)(["a text"], "Find it: ")
    assert theirs["input_ids"].tolist() == ours["input_ids"].tolist()
    closing = len(TOKENIZER(" [/INST]", add_special_tokens=False)["input_ids"])
    assert theirs["pooling_mask"].sum() == ours["pooling_mask"].sum() + closing
    assert theirs["pooling_mask"][0, -1] == 1
    assert ours["pooling_mask"][0, -1] == 0


def test_without_skipping_the_instruction_the_whole_row_is_pooled():
    tokenize = ReferenceTokenizer(TOKENIZER, skip_instruction=False)
    batch = tokenize(["a text", "another, longer text"], ["", "Find it:"])
    assert batch["pooling_mask"].tolist() == batch["attention_mask"].tolist()


def test_rows_are_padded_on_the_right_and_none_is_empty():
    batch = ReferenceTokenizer(TOKENIZER)(["", "a text", "\ud83d"])
    assert batch["attention_mask"].sum(dim=1).min() >= 1
    assert batch["pooling_mask"].sum(dim=1).min() >= 1
    assert batch["attention_mask"][:, 0].tolist() == [1, 1, 1]
    assert ReferenceTokenizer(TOKENIZER)([])["input_ids"].shape == (0, 0)
    assert ReferenceTokenizer(TOKENIZER).lengths([]) == []


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_is_cut_on_the_tokenizers_side(side):
    tokenizer, other = (AutoTokenizer.from_pretrained(TINY, truncation_side=side) for _ in range(2))
    text = "one two three four five six seven eight nine ten eleven twelve"
    batch = ReferenceTokenizer(tokenizer, 8)([text])
    expected = other(text, truncation=True, max_length=8)["input_ids"]
    assert batch["input_ids"][0].tolist() == expected
