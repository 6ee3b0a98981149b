"""Records -> pairs of texts with a score; a record that is none is an error with file and line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from llm2vec_pl.data.files.records import Row
from llm2vec_pl.data.files.rows import problem_of
from llm2vec_pl.errors import UserError


class PairColumns(NamedTuple):
    """The columns that hold a record's pair."""

    first: str = "sentence1"
    second: str = "sentence2"
    score: str = "score"


class ScoredPair(NamedTuple):
    """Two texts, and how similar people find them: higher is more similar, on any scale."""

    first: str
    second: str
    score: float


def scored_pair(row: Row, columns: Sequence[str]) -> ScoredPair:
    """The pair in a record.

    Args:
        row: the record.
        columns: names of the columns: first text, second text, score.

    Raises:
        UserError: with file and line, for anything that is not two texts and a number.
    """
    if not isinstance(row.value, dict):
        raise UserError(f"{row.place}: expected a pair with a score, but got {row.value}.")
    first, second, score = (row.value.get(column) for column in columns)
    for text, column in zip((first, second), columns, strict=False):
        if problem := problem_of(text):
            raise UserError(f"{row.place}: expected a text in {column!r}, but got {problem}.")
    number = _number(score)
    if number is None:
        raise UserError(f"{row.place}: expected a number in {columns[2]!r}, but got {score!r}.")
    return ScoredPair(first, second, number)  # type: ignore[arg-type]


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
