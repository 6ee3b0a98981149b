"""Files of queries with positives, read and written row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llm2vec_pl.data.examples import Candidates
from llm2vec_pl.data.files import Row, extension, problem_of, read_records, read_txt
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import unfinished


def read_pairs(
    path: Path, query_column: str = "query", positive_column: str = "positive"
) -> list[Candidates]:
    """The rows of a jsonl, csv, tsv or parquet file, with any negatives that they have already.

    A positive is a text or a list of texts.

    Raises:
        UserError: with file and line, for a row without a query or a positive.
    """
    rows = []
    columns = (query_column, positive_column)
    for row in read_records(path, columns):
        if not isinstance(row.value, dict):
            raise _bad(row, "a query and a positive", str(row.value))
        query, positive = (row.value.get(column) for column in columns)
        if problem := problem_of(query):
            raise _bad(row, f"a text in {query_column!r}", problem)
        positives: list[Any] = positive if isinstance(positive, list) else [positive]
        problem = next((p for text in positives if (p := problem_of(text))), None)
        if problem or not positives:
            raise _bad(row, f"a text, or a list of texts, in {positive_column!r}", problem or "[]")
        negatives = row.value.get("negative") or ()
        rows.append(Candidates(str(query), positives, negatives))
    return rows


def read_texts(path: Path, column: str = "text") -> Iterator[str]:
    """The texts of a column, or the lines of a txt file.

    Raises:
        UserError: with file and line, for a row without a text.
    """
    is_txt = path.is_file() and extension(path) == ".txt"
    for row in read_txt(path, column) if is_txt else read_records(path, [column]):
        text = row.value.get(column) if isinstance(row.value, dict) else row.value
        if problem := problem_of(text):
            raise _bad(row, f"a text in {column!r}", problem)
        yield str(text)


def write_triplets(
    path: Path, rows: Sequence[Candidates], negatives: Sequence[Sequence[str]]
) -> None:
    """Writes `query`, `positive` and `negative`, a list, as JSON lines: all of them, or no file.

    Args:
        path: the file; replaced when everything is written. Its folder is created.
        rows: queries and positives.
        negatives: the negatives of each row.
    """
    with unfinished(path) as new, new.open("w", encoding="utf-8") as file:
        for row, texts in zip(rows, negatives, strict=True):
            positives = list(row.positives)
            positive = positives[0] if len(positives) == 1 else positives
            record = {"query": row.query, "positive": positive, "negative": list(texts)}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _bad(row: Row, expected: str, problem: str) -> UserError:
    return UserError(f"{row.place}: expected {expected}, but got {problem}. Correct the row.")
