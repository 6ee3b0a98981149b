"""Real texts of realistic lengths: pieces of Python's documentation."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from llm2vec_pl.data import PythonDocs
from llm2vec_pl.errors import UserError


class Lengths(NamedTuple):
    """A log-normal distribution of lengths, in tokens.

    Args:
        mean: mean of the distribution.
        spread: standard deviation of the logarithm.
        longest: the length at which texts are cut.
    """

    mean: float
    spread: float
    longest: int = 512

    def draw(self, count: int, seed: int) -> list[int]:
        """Draws `count` lengths of at least 4 tokens."""
        centre = np.log(self.mean) - self.spread**2 / 2
        drawn = np.random.default_rng(seed).lognormal(centre, self.spread, count)
        return [int(n) for n in drawn.round().clip(4, self.longest)]


SENTENCES = Lengths(25, 0.5)
QUERIES = Lengths(15, 0.5)
PASSAGES = Lengths(100, 0.8)
TEXTS = Lengths(60, 0.8)


def pieces(tokenizer: PreTrainedTokenizerBase, *lengths: list[int]) -> list[list[str]]:
    """Consecutive pieces of the documentation: one list of texts for each list of lengths."""
    stream = _tokens(tokenizer)
    return [
        [str(tokenizer.decode(list(itertools.islice(stream, length)))) for length in each]
        for each in lengths
    ]


def blocks(
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    length: int,
    texts: Iterable[str] | None = None,
) -> list[list[int]]:
    """Consecutive blocks of token ids.

    Args:
        tokenizer: makes the tokens.
        count: number of blocks.
        length: tokens per block.
        texts: what to read; the documentation by default.

    Raises:
        UserError: if there are too few texts.
    """
    stream = _tokens(tokenizer, texts)
    read = [list(itertools.islice(stream, length)) for _ in range(count)]
    if len(read[-1]) < length:
        tokens = sum(map(len, read))
        raise UserError(
            f"{count:,} blocks of {length:,} tokens are needed, but the texts have {tokens:,} "
            "tokens. Give more text, or ask for fewer steps."
        )
    return read


def _tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str] | None = None
) -> itertools.chain[int]:
    if texts is None:
        texts = PythonDocs().texts("train")
    return itertools.chain.from_iterable(
        tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts
    )
