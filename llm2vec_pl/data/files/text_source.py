"""The interface of a source of texts, and which names mean which split."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Protocol

from llm2vec_pl.data.files.records import Row
from llm2vec_pl.data.files.shards import Shard

READ_SPLITS = ("train", "validation")
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "dev": "validation",
    "testa": "validation",  # CoNLL-2003
    "test": "test",
    "testb": "test",
}


class TextSource(Protocol):
    """Rows of text in splits."""

    @property
    def notes(self) -> list[str]:
        """Lines to print: what is left out, or read differently from what its name says."""

    @property
    def splits(self) -> set[str]:
        """The splits that have rows of their own."""

    def rows(self, split: str, shard: Shard | None = None) -> Iterator[Row]:
        """The rows of a split, or of a shard of it, in a fixed order."""

    def identity(self) -> dict[str, Any]:
        """A value that changes when the rows do."""


def split_of(name: str) -> str | None:
    """The split in a file's or folder's name: a word such as train, valid, dev or test."""
    for word in re.split(r"[^a-z]+", name.lower()):
        if word in _SPLIT_WORDS:
            return _SPLIT_WORDS[word]
    return None


def is_split_word(word: str) -> bool:
    """Whether a word names a split, such as train or dev."""
    return word.lower() in _SPLIT_WORDS
