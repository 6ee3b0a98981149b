"""Blocks that know where in the text they begin, so that a stream can continue from there."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llm2vec_pl.data.blocks.blocks import tokens_and_lengths

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llm2vec_pl.data.blocks.blocks import Tokens

_TEXTS_PER_CALL = 64  # few, for a quick first batch and little memory
_CHARACTERS_PER_CALL = 1_000_000


class Cursor(NamedTuple):
    """A place in a stream of blocks that are shuffled in groups."""

    row: int = 0  # in which the group begins
    offset: int = 0  # tokens of the row before the group
    handed_out: int = 0  # blocks of the group so far


class PlacedBlock(NamedTuple):
    """A block and where it begins."""

    tokens: Tokens  # (L,)
    row: int
    offset: int


def placed_blocks(
    texts: Iterable[tuple[int, str]],
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    offset: int = 0,
    control_tokens: bool = False,
) -> Iterator[PlacedBlock]:
    """Blocks of exactly `max_length` tokens, without gaps; the last block holds the rest.

    Args:
        texts: each with its row; read no further ahead than one tokenizer call.
        tokenizer: a fast tokenizer.
        max_length: tokens per block.
        offset: tokens of the first text to leave out.
        control_tokens: read control tokens that are spelled out in a text as control tokens.
    """
    tokens: Tokens = np.empty(0, np.uint16)  # not yet in a block
    rows, starts = np.empty(0, np.int64), np.empty(0, np.int64)  # of their texts
    for call in _calls(texts):
        more, lengths = tokens_and_lengths(tokenizer, [text for _, text in call], control_tokens)
        ends = np.cumsum(lengths)
        starts = np.concatenate([starts, len(tokens) + ends - lengths - offset])
        rows = np.concatenate([rows, [row for row, _ in call]])
        tokens = np.concatenate([tokens, more[offset:]]) if len(tokens) else more[offset:]
        offset = 0
        full = len(tokens) - len(tokens) % max_length
        for begin in range(0, full, max_length):
            yield _placed(tokens[begin : begin + max_length], begin, rows, starts)
        text = max(0, int(np.searchsorted(starts, full, "right")) - 1)
        tokens, rows, starts = tokens[full:].copy(), rows[text:], starts[text:] - full
    if len(tokens):
        yield _placed(tokens, 0, rows, starts)


def _placed(tokens: Tokens, begin: int, rows: np.ndarray, starts: np.ndarray) -> PlacedBlock:
    text = int(np.searchsorted(starts, begin, "right")) - 1
    return PlacedBlock(tokens, int(rows[text]), begin - int(starts[text]))


def _calls(texts: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    call: list[tuple[int, str]] = []
    characters = 0
    for row, text in texts:
        call.append((row, text))
        characters += len(text)
        if len(call) == _TEXTS_PER_CALL or characters >= _CHARACTERS_PER_CALL:
            yield call
            call, characters = [], 0
    if call:
        yield call


def shuffled_in_groups(
    blocks: Iterator[PlacedBlock], group_size: int, seed: str, handed_out: int = 0
) -> Iterator[tuple[Tokens, Cursor]]:
    """All blocks, each with the cursor after it; groups of consecutive blocks are shuffled.

    Two groups are in memory: while one is handed out, the next is filled block by block.

    Args:
        blocks: in the order of the text, from the beginning of a group.
        group_size: blocks per group; 1 keeps the order.
        seed: seed of the shuffling, which is a function of it and of the group's place.
        handed_out: blocks of the first group to leave out.
    """
    group = list(islice(blocks, group_size))
    while group:
        _, row, offset = group[0]
        order = random.Random(f"{seed} {row} {offset}").sample(range(len(group)), len(group))
        following: list[PlacedBlock] = []
        for number, chosen in enumerate(order, 1):
            following += islice(blocks, 1)
            if number > handed_out:
                yield group[chosen].tokens, Cursor(row, offset, number)
        group, handed_out = following, 0
