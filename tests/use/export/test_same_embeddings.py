"""The comparison finds what differs, and says where."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from llm2vec_pl.errors import UserError
from llm2vec_pl.use.export.same_embeddings import Reference, comparison_texts, require_equal


def reference(unlike: int | None = None) -> Reference:
    texts = comparison_texts(64)
    embeddings = normalize(torch.randn(2, len(texts), 16), dim=-1)
    apart = torch.zeros(2, len(texts), dtype=torch.bool)
    if unlike is not None:
        apart[1, unlike] = True
    return Reference(texts, ["", "find: "], list(embeddings), list(apart))


def a_program(expected: Reference, wrong: int | None = None):
    """A program that is right, or wrong about one text with a prompt."""

    def embed(texts, prompt):
        embeddings = expected.embeddings[bool(prompt)].clone()
        if prompt and wrong is not None:
            embeddings[wrong] = embeddings[wrong].roll(1)
        return 3 * embeddings

    return embed


def test_there_are_200_different_texts_of_all_lengths_and_none_ends_with_a_blank():
    texts = comparison_texts(512)
    assert len(texts) == len(set(texts)) == 200
    assert not [text for text in texts if text != text.rstrip()]
    words = sorted(len(text.split()) for text in texts)
    assert words[0] <= 2
    assert words[-4:] == [512] * 4


def test_only_the_direction_counts():
    expected = reference()
    agreement = require_equal(expected, a_program(expected), "It")
    assert agreement.least == pytest.approx(1)
    assert "200 texts, without and with a prompt: cosine 1.000000 at least" in str(agreement)


def test_the_text_that_is_farthest_off_is_named():
    expected = reference()
    with pytest.raises(UserError, match=r"1 of 200 texts with the prompt 'find: '.*is text 17 "):
        require_equal(expected, a_program(expected, wrong=17), "It")


def test_nan_differs():
    expected = reference()
    with pytest.raises(UserError, match="200 of 200 texts without a prompt"):
        require_equal(expected, lambda texts, prompt: torch.full((200, 16), torch.nan), "It")


def test_texts_that_are_known_to_differ_are_counted_apart():
    expected = reference(unlike=17)
    agreement = require_equal(expected, a_program(expected, wrong=17), "It")
    assert agreement.unlike == 1
    assert agreement.least == pytest.approx(1)
    assert agreement.least_unlike < 0.99
    assert "Not counted are 1 of the 200 with a prompt" in str(agreement)
