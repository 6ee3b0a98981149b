"""What the analyses look at: triples, long texts, pairs, tasks; the user's own, or what is here."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from llm2vec_pl.data import RetrievalTask
from llm2vec_pl.data.files import open_source, problem_of, spread
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation import STSTask
from llm2vec_pl.evaluation.analysis.layer_geometry import Pairs
from llm2vec_pl.evaluation.analysis.triples import Triple, read_triples

if TYPE_CHECKING:
    from llm2vec_pl.data import PythonDocs

TEXTS = 32
"""Texts whose hidden states are compared, and whose attention is averaged."""

FIRST_ROWS = 2000
"""Rows of a file of texts among which long ones are looked for."""

SIMILAR = 0.8
"""The part of the range of an STS task's scores from which on a pair is positive: 4 of 5."""


@dataclass
class Material:
    """The texts of all analyses; what an analysis that is not asked for needs may be missing.

    Args:
        triples: for `future`.
        texts: for `similarity` and `attention`; the first ones that have `length` tokens are used.
        pairs: for `geometry`.
        sts: for `layers`.
        retrieval: for `layers`.
        length: tokens of each text.
    """

    triples: list[Triple] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    pairs: Pairs = ((), ())
    sts: STSTask | None = None
    retrieval: RetrievalTask | None = None
    length: int = 64


def read_material(
    analyses: Collection[str],
    triples: str | Path | None = None,
    texts: str | None = None,
    column: str = "text",
    sts: str | Path | None = None,
    retrieval: str | Path | None = None,
    limit: int = 200,
    length: int = 64,
) -> Material:
    """Reads what the named analyses need; without a file, installed documentation.

    Args:
        analyses: names of analyses.
        triples: a file for `read_triples`; this package's triples by default.
        texts: a file or folder of long texts (txt, jsonl, csv, parquet); held-out documentation of
            the installed Python packages by default.
        column: the column with the text, in files of records.
        sts: a file of pairs with scores, for `layers`, whose most similar pairs are those of
            `geometry`. By default `layers` does without, and the pairs of `geometry` are summaries
            of the documentation with the text below them.
        retrieval: a folder in BEIR's layout; by default the documentation, if there is no `sts`.
        limit: most triples, pairs, and queries with their documents.
        length: tokens of each text for `similarity` and `attention`.

    Raises:
        UserError: if a file cannot be read or does not have what is needed.
    """
    if limit < 2 or length < 2:
        raise UserError(f"`limit` and `length` expect at least 2, but got {limit} and {length}.")
    found = Material(length=length)
    if "future" in analyses:
        found.triples = read_triples(triples, limit)
    if {"similarity", "attention"} & set(analyses):
        found.texts = list(_file_texts(texts, column) if texts else _docs_texts(length))
    if sts is not None:
        task = STSTask.read(sts)
        found.sts, found.pairs = task.limited(limit), similar_pairs(task, limit)
    if retrieval is not None:
        found.retrieval = RetrievalTask.from_folder(retrieval).limited(limit, 5 * limit)
    elif "layers" in analyses and sts is None:
        found.retrieval = _docs().retrieval(limit)
    if "geometry" in analyses and sts is None:
        pairs = _docs().retrieval(limit)
        found.pairs = list(pairs.queries.values()), list(pairs.corpus.values())
    return found


def similar_pairs(task: STSTask, limit: int) -> Pairs:
    """The most similar pairs of an STS task, each sentence once on its side.

    Wang and Isola's positive pairs have the same meaning; SimCSE takes STS-B's from a score of 4 of
    5 on.

    Raises:
        UserError: if there are fewer than two.
    """
    low, high = min(task.scores), max(task.scores)
    least = low + SIMILAR * (high - low)
    seen: set[tuple[str, str]] = set()
    first, second = [], []
    for one, other, score in zip(task.first, task.second, task.scores, strict=True):
        sides = {("first", one), ("second", other)}
        if score >= least and seen.isdisjoint(sides):
            seen |= sides
            first.append(one)
            second.append(other)
    if len(first) < 2:
        raise UserError(
            f"`sts`: expected at least two pairs of different sentences with a score of at least "
            f"{least:g}, for `geometry`, but {task.name} has {len(first)}. Give another file."
        )
    rows = spread(len(first), limit)
    return [first[i] for i in rows], [second[i] for i in rows]


def _docs() -> PythonDocs:
    from llm2vec_pl.data import PythonDocs  # imports Lightning, which takes seconds

    return PythonDocs()


def _docs_texts(length: int) -> Iterator[str]:
    """Held-out docstrings that may be long enough, from all packages."""
    long = [doc.text for doc in _docs().docstrings("validation") if len(doc.text) > 4 * length]
    for i in spread(len(long), 8 * TEXTS):
        yield long[i][: 20 * length]


def _file_texts(path: str, column: str) -> Iterator[str]:
    source = open_source(path, None, column, False)
    rows = (row for split in sorted(source.splits) for row in source.rows(split))
    for row in islice(rows, FIRST_ROWS):
        if problem := problem_of(row.value):
            raise UserError(f"{row.place}: expected a text in {column!r}, but got {problem}.")
        yield str(row.value)
