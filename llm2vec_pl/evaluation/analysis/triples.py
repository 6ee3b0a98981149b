"""Sentences that begin alike: a query, one that means the same, and one that does not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm2vec_pl.data.files import Row, problem_of, read_records, spread
from llm2vec_pl.errors import UserError

COLUMNS = ("query", "positive", "negative")
OURS = Path(__file__).with_name("triples.jsonl")
SHARED_WORDS = 2


@dataclass(frozen=True)
class Triple:
    """Three sentences with the same beginning.

    Args:
        query: any sentence.
        positive: one that goes on with the same meaning.
        negative: one that goes on with another meaning.
    """

    query: str
    positive: str
    negative: str


def read_triples(path: str | Path | None = None, limit: int | None = None) -> list[Triple]:
    """The 48 triples of this package, or those of a file whose sentences begin alike.

    The package's were written for this purpose. Half of them begin with an ambiguous word ("The
    crane"), half with part of a statement. Counting the words that sentences share is right about
    half of them, as guessing would be: see `shared_words_accuracy`.

    Args:
        path: a jsonl, csv, tsv or parquet file with the columns `query`, `positive` and `negative`,
            such as NLI triplets; a list counts as its first element. Rows whose three sentences
            do not share their first two words, or have no negative, are left out.
        limit: most triples, evenly spread over the file.

    Raises:
        UserError: with file and line, if a value is not a text; or if no row is left.
    """
    place = OURS if path is None else Path(path)
    read = [_triple(row) for row in read_records(place, COLUMNS[:2])]
    triples = [triple for triple in read if triple and len(set(_texts(triple))) == 3]
    triples = [triple for triple in triples if len(beginning(triple)) >= SHARED_WORDS]
    if not triples:
        raise UserError(
            f"{place}: expected rows whose query, positive and negative begin with the same "
            f"{SHARED_WORDS} words, but none of {len(read):,} rows does. Give other triples, or "
            "leave them out for those of this package."
        )
    return [triples[i] for i in spread(len(triples), limit)]


def beginning(triple: Triple) -> list[str]:
    """The words with which all three sentences begin.

    >>> beginning(Triple("The bat slept.", "The bat hung there.", "The bat broke."))
    ['The', 'bat']
    """
    words = []
    for together in zip(*(text.split() for text in _texts(triple)), strict=False):
        if len(set(together)) > 1:
            break
        words.append(together[0])
    return words


def shared_words_accuracy(triples: Sequence[Triple]) -> float:
    """The accuracy of counting shared words: what looking ahead without understanding gives.

    Of each triple, the positive is preferred if the Jaccard index of its words and the query's is
    higher than the negative's; a tie counts as one half.
    """
    gains = [_overlap(t.query, t.positive) - _overlap(t.query, t.negative) for t in triples]
    return sum((gain > 0) + 0.5 * (gain == 0) for gain in gains) / len(gains)


def _overlap(first: str, second: str) -> float:
    a, b = (set(re.findall(r"\w+", text.lower())) for text in (first, second))
    return len(a & b) / max(1, len(a | b))


def _texts(triple: Triple) -> tuple[str, str, str]:
    return triple.query, triple.positive, triple.negative


def _triple(row: Row) -> Triple | None:
    if not isinstance(row.value, dict):
        raise UserError(f"{row.place}: expected a triple, but got {row.value}.")
    values = [_first(row.value.get(column)) for column in COLUMNS]
    for value, column in zip(values, COLUMNS, strict=True):
        if column == COLUMNS[2] and value is None:
            return None
        if problem := problem_of(value):
            raise UserError(f"{row.place}: expected a text in {column!r}, but got {problem}.")
    return Triple(*values)


def _first(value: Any) -> Any:
    return (value[0] if value else None) if isinstance(value, list) else value
