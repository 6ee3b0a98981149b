"""What contrastive training is fed with: a query, and texts that do and do not belong to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Example(NamedTuple):
    """A query, one text that belongs to it, and any number of texts that do not."""

    query: str
    positive: str
    negatives: Sequence[str] = ()


class Candidates(NamedTuple):
    """A row of data: a query and all its texts, of which an epoch draws."""

    query: str
    positives: Sequence[str]  # the query itself where there are none, as in SimCSE
    negatives: Sequence[str] = ()
