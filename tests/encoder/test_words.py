from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llm2vec_pl.decoder.source import TINY
from llm2vec_pl.encoder.tokenizer import TextTokenizer
from llm2vec_pl.encoder.words import (
    tokenize_words,
    word_count,
    word_places,
    word_states,
    word_tokens,
)
from llm2vec_pl.errors import UserError

ROOT = Path(__file__).parents[3] / "shared/data/tokenizers"
REAL = {
    "mistral": ROOT / "mistral-7b-instruct-v0.3",
    "qwen2": ROOT / "qwen2-1.5b-instruct",
    "gpt2": ROOT / "gpt2/tokenizer.json",
    "smollm2": Path.home() / ".cache/llm2vec-models/smollm2-135m",
    "bert": Path.home() / ".cache/llm2vec-models/minilm",
}
WORDS = [
    "The",
    "U.N.",
    "official",
    "naïve",
    "e\u0301",
    "10 000",
    "日本語",
    "😀👩\u200d👧",
    "n't",
    "``",
    "-LRB-",
    ".",
]


@pytest.fixture(params=["tiny", *REAL], scope="module")
def tokenizer(request):
    if request.param == "tiny":
        return AutoTokenizer.from_pretrained(TINY)
    path = REAL[request.param]
    if not path.exists():
        pytest.skip(f"needs the real tokenizer in {path}")
    if path.is_dir():
        return AutoTokenizer.from_pretrained(path)
    return PreTrainedTokenizerFast(tokenizer_file=str(path))


@pytest.fixture(scope="module")
def tiny():
    return TextTokenizer(AutoTokenizer.from_pretrained(TINY))


def spelled(tokenizer, batch, row, word):
    ids = batch["input_ids"][row][batch["word_index"][row] == word]
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()


def test_the_tokens_of_a_word_spell_it(tokenizer):
    batch = tokenize_words(tokenizer, [WORDS, ["short"]])
    lowered = tokenizer.convert_tokens_to_ids("[CLS]") not in (None, tokenizer.unk_token_id)
    for number, word in enumerate(WORDS):
        found = spelled(tokenizer, batch, 0, number)
        if not lowered:
            assert found in (word, "é"), word  # some tokenizers compose accents
        elif word.isascii():
            assert found.replace(" ", "") == word.lower().replace(" ", "")
        else:
            assert found


def test_the_tokens_are_those_of_the_joined_sentence(tokenizer):
    batch = tokenize_words(tokenizer, [WORDS])
    assert batch["input_ids"][0].tolist() == tokenizer(" ".join(WORDS))["input_ids"]


def test_special_tokens_and_padding_belong_to_no_word(tokenizer):
    batch = tokenize_words(tokenizer, [["a", "b"], WORDS])
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for token, word in zip(
        batch["input_ids"].flatten(), batch["word_index"].flatten(), strict=True
    ):
        assert int(token) not in special or int(word) == -1
    assert (batch["word_index"][batch["attention_mask"] == 0] == -1).all()


def test_control_tokens_as_words_are_plain_characters(tiny):
    words = ["</s>", "[SEP]", "<s>"]
    batch = tokenize_words(tiny, [words])
    special = set(tiny.tokenizer.all_special_ids)
    for number, word in enumerate(words):
        ids = batch["input_ids"][0][batch["word_index"][0] == number].tolist()
        assert not special & set(ids)
        assert tiny.tokenizer.decode(ids).strip() == word


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.text(max_size=6), max_size=6))
def test_any_words_keep_their_order_and_none_takes_what_is_anothers(tokenizer, words):
    (row,) = word_tokens(tokenizer, [words])
    inside = [word for word in row.words if word >= 0]
    assert inside == sorted(inside)
    assert set(inside) <= {i for i, word in enumerate(words) if word}
    plain = [i for i, word in enumerate(words) if word.isascii() and word.isalnum()]
    assert set(plain) <= set(inside)


def test_words_without_a_token_are_left_out(tiny):
    batch = tokenize_words(tiny, [["", "a", "", "", "b", ""]])
    assert word_places(batch["word_index"]).tolist() == [[0, 1], [0, 4]]
    assert batch["input_ids"].tolist() == tiny(["a b"])["input_ids"].tolist()


def test_half_of_a_character_is_a_word_and_moves_no_other(tiny):
    halves = [["a", "\ud83d", "b"], ["a", "x\ud83d\ude00", "b"]]
    batch = tokenize_words(tiny, halves)
    assert word_places(batch["word_index"])[:, 1].tolist() == [0, 1, 2, 0, 1, 2]
    assert spelled(tiny.tokenizer, batch, 0, 2) == spelled(tiny.tokenizer, batch, 1, 2) == "b"


def test_words_beyond_max_length_have_no_token(tiny):
    (whole,), (cut,) = (word_tokens(tiny, [["word"] * 40], length) for length in (None, 16))
    assert (len(cut.ids), cut.is_cut, whole.is_cut) == (16, True, False)
    assert cut.words == whole.words[:16]


def test_the_template_of_the_encoder_surrounds_the_words(tiny):
    tokenize = TextTokenizer(tiny.tokenizer, template="[INST] {text} [/INST]")
    batch = tokenize_words(tokenize, [["a", "b"]])
    assert tiny.tokenizer.decode(batch["input_ids"][0]).endswith("[INST] a b [/INST]")
    assert [spelled(tiny.tokenizer, batch, 0, i) for i in (0, 1)] == ["a", "b"]


@pytest.mark.parametrize("sentence", ["a string", ["a", None], [["a"], "b"]])
def test_what_is_no_list_of_words_is_an_error(tiny, sentence):
    with pytest.raises(UserError, match="A sentence is a list of words"):
        tokenize_words(tiny, [sentence])


def by_hand(states, index, shift):
    """The definition, word by word."""
    means = []
    for row in range(len(index)):
        for word in sorted({int(w) for w in index[row]} - {-1}):
            places = [i for i, w in enumerate(index[row]) if w == word]
            means.append(states[row, [max(0, i - shift) for i in places]].mean(dim=0))
    return torch.stack(means) if means else states.new_zeros(0, states.shape[-1])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=4), st.integers(0, 3))
def test_a_words_state_is_the_mean_of_its_tokens(steps, first):
    length = max(map(len, steps)) + first + 1
    index = torch.full((len(steps), length), -1)
    for row, each in enumerate(steps):
        if each:
            index[row, first : first + len(each)] = torch.tensor(each).clamp(max=1).cumsum(0)
    states = torch.randn(*index.shape, 5, dtype=torch.float64)
    for shift in (0, 1):
        expected = by_hand(states, index, shift).float()
        counted = word_states(states, index, shift)
        torch.testing.assert_close(counted, expected)
        torch.testing.assert_close(word_states(states, index, shift, word_count(index)), expected)
        assert counted.dtype == torch.float32


def test_a_word_at_the_very_start_keeps_its_own_state(tiny):
    states, index = torch.randn(1, 3, 4), torch.tensor([[0, 0, 1]])
    expected = torch.stack([states[0, [0, 0]].mean(0), states[0, 1]])
    torch.testing.assert_close(word_states(states, index, shift=1), expected)


def test_gradients_reach_the_words_tokens_only():
    states = torch.randn(1, 4, 2, requires_grad=True)
    word_states(states, torch.tensor([[-1, 0, 0, -1]])).sum().backward()
    assert states.grad.abs().sum(dim=-1).bool().tolist() == [[False, True, True, False]]
