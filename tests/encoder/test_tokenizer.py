import datetime
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llm2vec_pl.data.blocks.blocks import tokens_and_lengths
from llm2vec_pl.decoder.source import TINY
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.encoder.tokenizer import TextTokenizer
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import Contrastive

REAL = {
    "mistral": "mistral-7b-instruct-v0.3",
    "qwen2": "qwen2-1.5b-instruct",
    "gpt2": "gpt2/tokenizer.json",
    "pythia": "pythia/20B_tokenizer.json",
    "olmo-dolma2": "olmo/allenai_dolma2.json",
    "olmo-neox": "olmo/allenai_gpt-neox-olmo-dolma-v1_5.json",
}
INSTRUCTION = "Given a question, retrieve the answer: "
TEXTS = [
    "hello world",
    " leading and trailing  ",
    "two\n\nparagraphs\tand a tab",
    "emoji 😀👩‍👩‍👧 and accents: naïve, e\u0301",
    "日本語のテキスト。中文文本。",
    "مرحبا بالعالم",
    "zero\u200bwidth and \ufffd",
]


@pytest.fixture(params=["tiny", *REAL], scope="module")
def tokenizer(request, pytestconfig):
    if request.param == "tiny":
        return AutoTokenizer.from_pretrained(TINY)
    path = Path(__file__).parents[3] / "shared/data/tokenizers" / REAL[request.param]
    if not path.exists():
        pytest.skip(f"needs the real tokenizer in {path}")
    if path.is_dir():
        return AutoTokenizer.from_pretrained(path)
    return PreTrainedTokenizerFast(tokenizer_file=str(path))


def pooled_text(tokenizer, batch, row=0):
    ids = batch["input_ids"][row][batch["pooling_mask"][row].bool()]
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("text", TEXTS)
def test_the_pooled_tokens_are_the_text(tokenizer, text):
    batch = TextTokenizer(tokenizer)([text], INSTRUCTION)
    # The blank that ends the instruction may share the text's first token.
    assert (
        pooled_text(tokenizer, batch).strip()
        == tokenizer.decode(
            tokenizer(text, add_special_tokens=False)["input_ids"],
            clean_up_tokenization_spaces=False,
        ).strip()
    )


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokens_are_those_of_the_joined_string(tokenizer, text):
    batch = TextTokenizer(tokenizer)([text], INSTRUCTION)
    assert batch["input_ids"][0].tolist() == tokenizer(INSTRUCTION + text)["input_ids"]


def test_instruction_and_special_tokens_are_not_pooled(tokenizer):
    batch = TextTokenizer(tokenizer)(["cats"], INSTRUCTION)
    assert "retrieve" not in pooled_text(tokenizer, batch)
    special = batch["input_ids"][0].tolist()[0] in tokenizer.all_special_ids
    assert not (special and batch["pooling_mask"][0, 0])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    texts=st.lists(st.text(max_size=40), min_size=1, max_size=5), instruction=st.text(max_size=20)
)
def test_each_row_pools_something_and_no_padding(tokenizer, texts, instruction):
    batch = TextTokenizer(tokenizer)(texts, instruction)
    assert (batch["pooling_mask"].sum(1) > 0).all()
    assert (batch["pooling_mask"] <= batch["attention_mask"]).all()
    # Padding is on the right.
    assert (batch["attention_mask"].diff(dim=1) <= 0).all()


def test_other_texts_in_the_batch_change_nothing(tokenizer):
    text = TextTokenizer(tokenizer)
    alone, together = text(["short"]), text(["short", "a much longer text " * 5])
    length = alone["input_ids"].shape[1]
    for key in alone:
        assert together[key][0, :length].tolist() == alone[key][0].tolist()
        if key != "input_ids":
            assert together[key][0, length:].sum() == 0


def test_each_text_may_have_its_own_instruction(tokenizer):
    text = TextTokenizer(tokenizer)
    batch = text(["cats", "cats"], ["", INSTRUCTION])
    assert batch["attention_mask"][0].sum() < batch["attention_mask"][1].sum()
    assert pooled_text(tokenizer, batch, 0).strip() == pooled_text(tokenizer, batch, 1).strip()


def test_truncation_cuts_the_text_and_neither_instruction_nor_template(tokenizer):
    whole = TextTokenizer(tokenizer, 512, "<query> {text} </query>")(["cats " * 200], INSTRUCTION)
    cut = TextTokenizer(tokenizer, 32, "<query> {text} </query>")(["cats " * 200], INSTRUCTION)
    assert cut["input_ids"].shape == (1, 32)
    before, after = (tokenizer.decode(b["input_ids"][0]) for b in (whole, cut))
    assert after.endswith("</query>")
    assert before.split("cats")[0] == after.split("cats")[0]


def test_a_text_of_exactly_max_length_is_not_cut(tokenizer):
    ids = TextTokenizer(tokenizer)(["one two three four"])["input_ids"]
    exact = TextTokenizer(tokenizer, max_length=ids.shape[1])(["one two three four"])["input_ids"]
    assert exact.tolist() == ids.tolist()


def test_an_instruction_longer_than_max_length_is_an_error(tokenizer):
    with pytest.raises(UserError, match="leaves no room for the text in `max_length=8`"):
        TextTokenizer(tokenizer, max_length=8)(["cats " * 50], INSTRUCTION * 3)


def test_an_empty_text_pools_the_whole_row(tokenizer):
    batch = TextTokenizer(tokenizer)(["", "cats"])
    assert batch["pooling_mask"][0].sum() == batch["attention_mask"][0].sum() >= 1


def test_a_very_long_text_is_cut(tokenizer):
    assert TextTokenizer(tokenizer, 64)(["word " * 50_000])["input_ids"].shape == (1, 64)


def test_no_text_gives_an_empty_batch(tokenizer):
    assert TextTokenizer(tokenizer)([])["input_ids"].shape == (0, 0)


def test_the_chat_template_surrounds_the_text(tokenizer):
    if not tokenizer.chat_template:
        with pytest.raises(UserError, match="has a chat template"):
            TextTokenizer(tokenizer, template="chat")
        return
    batch = TextTokenizer(tokenizer, template="chat")(["cats and dogs"], INSTRUCTION)
    turn = [{"role": "user", "content": INSTRUCTION + "cats and dogs"}]
    expected = tokenizer.apply_chat_template(
        turn, add_generation_prompt=True, return_dict=False, tokenize=True
    )
    assert batch["input_ids"][0].tolist() == expected
    assert pooled_text(tokenizer, batch).strip() == "cats and dogs"


@pytest.mark.parametrize("template", ["no place", "{text} {text}"])
def test_a_template_holds_the_text_once(tokenizer, template):
    with pytest.raises(UserError, match="holds {text} once"):
        TextTokenizer(tokenizer, template=template)


@pytest.mark.parametrize("bad", [None, 3, b"bytes", ["nested"]])
def test_a_text_that_is_no_string_is_named(tokenizer, bad):
    with pytest.raises(UserError, match="text 1 is"):
        TextTokenizer(tokenizer)(["fine", bad])


HALVES = {"a\ud83d": "a\ufffd", "\udc00b": "\ufffdb", "\ud83d\ude00 c": "\U0001f600 c"}
"""Halves of characters, as JavaScript cuts them, and what they count as."""


def test_half_characters_count_as_unknown_ones(tokenizer):
    text = TextTokenizer(tokenizer, template="<\ud83d>{text}")
    whole = TextTokenizer(tokenizer, template="<\ufffd>{text}")
    found = text(["plain", *HALVES], ["", *HALVES])
    expected = whole(["plain", *HALVES.values()], ["", *HALVES.values()])
    for key in expected:
        assert torch.equal(found[key], expected[key])
    assert text.lengths([*HALVES]) == whole.lengths([*HALVES.values()])


def test_half_characters_in_a_corpus_do_not_stop_its_tokenisation(tokenizer):
    found, expected = (tokens_and_lengths(tokenizer, ["x", *t]) for t in (HALVES, HALVES.values()))
    for one, other in zip(found, expected, strict=True):
        assert one.tolist() == other.tolist()


DATED = (
    "{% for message in messages %}<s>Today is {{ strftime_now('%d %b %Y') }}. "
    "{{ message['content'] }}</s>{% endfor %}"
)


class LaterDate(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2031, 5, 6)


def test_a_chat_template_that_prints_the_date_is_frozen_where_it_is_saved(
    llama_folder, tmp_path, monkeypatch
):
    source = tmp_path / "dated"
    shutil.copytree(llama_folder, source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = DATED
    tokenizer.save_pretrained(source)
    trained = Encoder(str(source), template="chat").load()
    stage = save_encoder(trained, tmp_path / "stage")
    today = trained.encode("a text")
    checkpoint = {"state_dict": {}}
    Contrastive(trained).on_save_checkpoint(checkpoint)
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", LaterDate)
    assert not torch.allclose(Encoder(str(source), template="chat").encode("a text"), today)
    resumed = Encoder(str(source), template="chat")
    Contrastive(resumed).on_load_checkpoint(checkpoint)
    reopened = Encoder.from_pretrained(stage, dtype="float32")
    next_stage = Encoder(str(stage), template="chat")
    again = Encoder.from_pretrained(
        save_encoder(next_stage.load(), tmp_path / "next"), dtype="float32"
    )
    for each in (resumed, reopened, next_stage, again):
        torch.testing.assert_close(each.encode("a text"), today)
        assert "2031" not in each.tokenize.rendered
    number = trained.tokenizer.convert_tokens_to_ids("</s>")
    assert reopened.tokenize(["a </s> b"])["input_ids"][0].tolist().count(number) == 1


def test_tokens_from_many_threads_are_those_from_one(tokenizer):
    text = TextTokenizer(tokenizer)
    texts = [f"{w} <s> {'and so on ' * i}" for i, w in enumerate(TEXTS)]
    expected = text(texts)

    # Leaves settings behind.
    tokenizer(texts, truncation=True, max_length=3, split_special_tokens=True)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(text, [texts] * 24):
            assert torch.equal(found["input_ids"], expected["input_ids"])


def test_one_string_is_not_taken_for_a_list_of_letters(tokenizer):
    with pytest.raises(UserError, match="one string"):
        TextTokenizer(tokenizer)("hello")
