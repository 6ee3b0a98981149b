"""Tagged sentences as tokens, and as batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from llm2vec_pl.data.blocks import RepeatedRows
from llm2vec_pl.data.words.sentence import Sentence
from llm2vec_pl.distributed import Repeated
from llm2vec_pl.encoder import TokenBatch, WordTokens, pad_words, word_places
from llm2vec_pl.objectives import IGNORED


class TaggedSentence(NamedTuple):
    """A sentence as tokens, with the class of each word that has a token."""

    tokens: WordTokens
    labels: list[int]
    tags: list[str]


class TaggedSentences(Dataset[TaggedSentence]):
    """Tokenised sentences with their labels.

    Args:
        tokens: the tokens of each.
        sentences: the sentences.
        number: the class of each label; a tag without one gets `IGNORED`.
        with_words_only: leave out those in which no word has a token.
    """

    def __init__(
        self,
        tokens: Sequence[WordTokens],
        sentences: Sequence[Sentence],
        number: dict[str, int],
        with_words_only: bool,
    ) -> None:
        self._rows = []
        self._words = self._cut = self._untokenised = 0
        self._unknown: dict[str, int] = {}
        for row, sentence in zip(tokens, sentences, strict=True):
            present = sorted({word for word in row.words if word >= 0})
            self._count(row, sentence, present, number)
            if present or not with_words_only:
                labels = [number.get(sentence.tags[word], IGNORED) for word in present]
                self._rows.append(TaggedSentence(row, labels, sentence.tags))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> TaggedSentence:
        return self._rows[row]

    def faults(self, split: str) -> list[str]:
        """Lines on words that have no token, and on tags that are not among the labels."""
        wrong = "are not trained on" if split == "train" else "count as wrong"
        lines = []
        if self._cut:
            lines.append(
                f"{self._cut:,} of {self._words:,} words of {split} lie beyond the encoder's "
                f"maximum length and {wrong}. Raise --encoder.max_length."
            )
        if self._untokenised:
            lines.append(
                f"{self._untokenised:,} of {self._words:,} words of {split} have no token in this "
                f"tokenizer and {wrong}."
            )
        if self._unknown:
            tags = ", ".join(f"{tag} ({count:,})" for tag, count in self._unknown.items())
            lines.append(
                f"{split} has tags that train does not have; their words count as wrong: {tags}."
            )
        return lines

    def _count(
        self, row: WordTokens, sentence: Sentence, present: list[int], number: dict[str, int]
    ) -> None:
        self._words += len(sentence.words)
        missing = len(sentence.words) - len(present)
        cut = len(sentence.words) - 1 - max(present, default=-1) if row.is_cut else 0
        self._cut += cut
        self._untokenised += missing - cut
        for tag in sentence.tags:
            if tag not in number:
                self._unknown[tag] = self._unknown.get(tag, 0) + 1


def word_batch(rows: Sequence[TaggedSentence], fill: int = 0) -> TokenBatch:
    """Sentences as one batch.

    Returns:
        `input_ids`, `attention_mask` and `word_index`, each (B, L); `labels`, (W,), the class of
        each word that has a token, sentence by sentence; `word_places`, (W, 2), the sentence of
        each of these words and its number there; and `tags`, all tags of each sentence.
    """
    batch = pad_words([row.tokens for row in rows], fill)
    batch["labels"] = torch.tensor(
        [label for row in rows for label in row.labels], dtype=torch.long
    )
    batch["word_places"] = word_places(batch["word_index"])
    batch["tags"] = [row.tags for row in rows]
    return Repeated(batch) if isinstance(rows, RepeatedRows) else batch
