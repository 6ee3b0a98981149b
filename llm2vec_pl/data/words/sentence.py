"""A sentence as words with a tag each, and where a reader finds both."""

from __future__ import annotations

from typing import Literal, NamedTuple

WordTaskName = Literal["pos", "chunk", "ner"]


class Sentence(NamedTuple):
    """Words with a tag each."""

    words: list[str]
    tags: list[str]
    place: str
    """Where it begins, such as `eng.train line 17`."""


class Layout(NamedTuple):
    """Where the words and the tags are, as far as the user says."""

    task: WordTaskName
    column: str | int | None = None
    word_column: str | int | None = None
    names: tuple[str, ...] = ()
    """The tag of each number, if tags are numbers."""
