"""Words -> tokens, each of which knows its word; hidden states -> one state for each word."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llm2vec_pl.encoder.tokenizer import LocatedTokens, TextTokenizer, TokenBatch, well_formed
from llm2vec_pl.errors import UserError

NO_WORD = -1
_LONGEST = 512  # for a tokenizer that does not say how much its model reads


class WordTokens(NamedTuple):
    """The tokens of a sentence, and the word that each of them belongs to."""

    ids: list[int]
    words: list[int]
    """The number of the word in its sentence; `NO_WORD` for BOS, template and the like."""
    is_cut: bool
    """Whether the sentence has more tokens than were allowed."""


def tokenize_words(
    tokenizer: TextTokenizer | PreTrainedTokenizerBase,
    sentences: Sequence[Sequence[str]],
    max_length: int | None = None,
) -> TokenBatch:
    """Tokenises sentences that are divided into words.

    The words are joined by blanks and tokenised as one text without an instruction, so that the
    tokens are those that the model was trained on; character offsets then tell which word a token
    belongs to. A token that holds only the blank before a word belongs to that word, and one that
    straddles two words to the first. A word may be left without a token: an empty one, one of
    characters that the tokenizer drops, and one that lies beyond `max_length`.

    Args:
        tokenizer: an encoder's `tokenize`, or any fast tokenizer, such as BERT's, whose special
            tokens belong to no word.
        sentences: B lists of words.
        max_length: most tokens in a row; by default the tokenizer's own.

    Returns:
        `input_ids`, `attention_mask` and `word_index`, each (B, L) and padded on the right. The
        latter is the number of the word in its sentence, -1 where there is none.

    Raises:
        UserError: if a word is not a string, or the tokenizer gives no offsets.
    """
    return pad_words(word_tokens(tokenizer, sentences, max_length), pad_token(tokenizer))


def word_tokens(
    tokenizer: TextTokenizer | PreTrainedTokenizerBase,
    sentences: Sequence[Sequence[str]],
    max_length: int | None = None,
) -> list[WordTokens]:
    """As `tokenize_words`, the rows one by one, without padding."""
    if not isinstance(tokenizer, TextTokenizer):
        longest = int(min(tokenizer.model_max_length, 1e6))  # it may be 1e30
        tokenizer = TextTokenizer(tokenizer, longest if longest < 1e6 else _LONGEST)
    whole = [_well_formed(sentence) for sentence in sentences]
    texts = [" ".join(word for word in sentence if word) for sentence in whole]
    located = tokenizer.located(texts, max_length)
    return [_with_words(*pair) for pair in zip(located, whole, strict=True)]


def pad_words(rows: Sequence[WordTokens], fill: int = 0) -> TokenBatch:
    """Sentences as one batch, padded on the right with the token `fill`: see `tokenize_words`."""
    length = max((len(row.ids) for row in rows), default=0)
    batch = {
        "input_ids": torch.full((len(rows), length), fill),
        "attention_mask": torch.zeros(len(rows), length, dtype=torch.long),
        "word_index": torch.full((len(rows), length), NO_WORD),
    }
    for i, row in enumerate(rows):
        batch["input_ids"][i, : len(row.ids)] = torch.tensor(row.ids)
        batch["attention_mask"][i, : len(row.ids)] = 1
        batch["word_index"][i, : len(row.ids)] = torch.tensor(row.words)
    return batch


def pad_token(tokenizer: TextTokenizer | PreTrainedTokenizerBase) -> int:
    """The token that fills rows; attention never looks at it."""
    plain = tokenizer.tokenizer if isinstance(tokenizer, TextTokenizer) else tokenizer
    return int(plain.pad_token_id or 0)


def word_states(
    hidden_states: Tensor, word_index: Tensor, shift: int = 0, count: int | None = None
) -> Tensor:
    """The mean of the hidden states of each word's tokens.

    With `shift=1`, the state of a token is the one before it, from which MNTP predicts that token
    (LLM2Vec, appendix on word-level tasks); the first token of a row keeps its own.

    Args:
        hidden_states: (B, L, D).
        word_index: the word of each token, (B, L), or -1; never falling within a row.
        shift: 0 or 1 positions to the left.
        count: W, how many words have a token; without it the host waits for the device to count.

    Returns:
        (W, D) in float32: all words that have a token, row by row.

    >>> states = torch.tensor([[[9.0], [1.0], [3.0], [5.0]]])
    >>> index = torch.tensor([[-1, 0, 0, 2]])
    >>> word_states(states, index).tolist(), word_states(states, index, shift=1).tolist()
    ([[2.0], [5.0]], [[5.0], [3.0]])
    """
    if shift:
        hidden_states = torch.cat([hidden_states[:, :1], hidden_states[:, :-1]], dim=1)
    first = _is_first(word_index).flatten()
    count = int(first.sum()) if count is None else count
    rows = first.cumsum(0) - 1  # (B * L,)
    rows = rows.masked_fill(word_index.flatten() < 0, count)  # one more, for what is no word
    states = hidden_states.flatten(0, 1).float()
    sums = states.new_zeros(count + 1, states.shape[-1]).index_add(0, rows, states)
    tokens = states.new_zeros(count + 1).index_add(0, rows, torch.ones_like(states[:, 0]))
    return sums[:count] / tokens[:count].unsqueeze(-1)  # (W, D)


def word_count(word_index: Tensor) -> int:
    """W, how many words have a token; it waits for a GPU."""
    return int(_is_first(word_index).sum())


def word_places(word_index: Tensor) -> Tensor:
    """Which word each row of `word_states` is: the row of its sentence and its number, (W, 2).

    >>> word_places(torch.tensor([[-1, 0, 0, 2], [0, 1, -1, -1]])).tolist()
    [[0, 0], [0, 2], [1, 0], [1, 1]]
    """
    first = _is_first(word_index).nonzero()  # (W, 2)
    return torch.stack([first[:, 0], word_index[first[:, 0], first[:, 1]]], dim=1)


def _is_first(word_index: Tensor) -> Tensor:
    """Whether each token is the first one of a word, (B, L)."""
    before = torch.cat([torch.full_like(word_index[:, :1], NO_WORD), word_index[:, :-1]], dim=1)
    return (word_index >= 0) & (word_index != before)


def _with_words(located: LocatedTokens, sentence: list[str]) -> WordTokens:
    numbers, ends = [], []
    end = -1
    for number, word in enumerate(sentence):
        if word:
            end += 1 + len(word)
            numbers.append(number)
            ends.append(end)
    words = []
    for span in located.spans:
        # Some tokenizers give a blank that is a token of its own an empty span, at its end.
        start = -1 if span is None else span[0] - (span[0] == span[1])
        place = len(ends) if span is None else bisect_right(ends, start)
        words.append(numbers[place] if place < len(ends) else NO_WORD)
    return WordTokens(located.ids, words, located.is_cut)


def _well_formed(sentence: Sequence[str]) -> list[str]:
    if isinstance(sentence, str) or not all(isinstance(word, str) for word in sentence):
        raise UserError(
            f"A sentence is a list of words, which are strings, but got {str(sentence)[:60]!r}. "
            "Divide the sentence into words first."
        )
    try:
        "".join(sentence).encode()
    except UnicodeEncodeError:
        return [well_formed(word) for word in sentence]
    return list(sentence)
