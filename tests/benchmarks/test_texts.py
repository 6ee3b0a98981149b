import pytest

from benchmarks.texts import PASSAGES, TEXTS, Lengths, blocks, pieces
from llm2vec_pl import Encoder
from llm2vec_pl.data import PythonDocs


@pytest.fixture
def tokenizer(monkeypatch):
    texts = [f"Returns the {i}th prime number, or None where there is none." for i in range(900)]
    monkeypatch.setattr(PythonDocs, "texts", lambda *_: iter(texts))
    return Encoder("tiny").tokenizer


def test_lengths_have_the_mean_that_was_asked_for_and_repeat():
    lengths = TEXTS.draw(5000, seed=0)
    assert sum(lengths) / len(lengths) == pytest.approx(TEXTS.mean, rel=0.05)
    assert 4 <= min(lengths) < max(lengths) <= TEXTS.longest
    assert lengths == TEXTS.draw(5000, seed=0)
    assert lengths != TEXTS.draw(5000, seed=1)


def test_some_passages_are_as_long_as_they_may_be():
    assert max(PASSAGES.draw(2000, seed=0)) == PASSAGES.longest


def test_pieces_are_texts_of_about_these_many_tokens(tokenizer):
    wanted = Lengths(20, 0.5).draw(30, seed=0)
    first, second = pieces(tokenizer, wanted, wanted)
    found = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in first]
    assert sum(found) == pytest.approx(sum(wanted), rel=0.1)
    assert not set(first) & set(second)


def test_blocks_have_exactly_the_length_that_was_asked_for(tokenizer):
    assert [len(block) for block in blocks(tokenizer, 3, 50)] == [50, 50, 50]
