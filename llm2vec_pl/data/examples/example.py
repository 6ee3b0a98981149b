"""What contrastive training learns from: a query, and texts that do and do not belong to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Example(NamedTuple):
    """A query, one text that belongs to it, and any number of texts that do not.

    In graded pairs the second text belongs to the first as much as the score says.
    """

    query: str
    positive: str
    negatives: Sequence[str] = ()
    score: float | None = None


class Candidates(NamedTuple):
    """A row of data: a query and all its texts, from which an epoch draws."""

    query: str
    positives: Sequence[str]  # if empty, the query itself, as in SimCSE
    negatives: Sequence[str] = ()
