"""Local files in the form in which MTEB's tasks hold their data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset

from llm2vec_pl.data import RetrievalTask, own_documents
from llm2vec_pl.data.files import RECORD_READERS, extension, problem_of, read_records
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation import ClassificationTask, STSTask

Splits = dict[str, Any]  # split -> data


def sts(path: Path, split: str) -> Splits:
    """Pairs of sentences with a score, from a file with `sentence1`, `sentence2`, `score`."""
    task = STSTask.read(path)
    columns = {"sentence1": task.first, "sentence2": task.second, "score": task.scores}
    return {split: Dataset.from_dict(columns)}


def pair_classification(path: Path, split: str) -> Splits:
    """Pairs that belong together or not, from a file with `sentence1`, `sentence2`, `label`."""
    rows = list(_rows(path, ("sentence1", "sentence2", "label"), texts=2))
    labels = {str(label): place for place, (*_, label) in rows}
    for label, place in labels.items():
        if label not in ("0", "1"):
            raise UserError(f"{place}: expected a label of 0 or 1, but got {label!r}.")
    if len(labels) < 2:
        raise UserError(
            f"{path}: expected pairs with both labels, 0 and 1, but got {list(labels)}."
        )
    first, second, numbers = (
        list(column) for column in zip(*(row for _, row in rows), strict=True)
    )
    columns = {"sentence1": first, "sentence2": second, "labels": [int(each) for each in numbers]}
    return {split: Dataset.from_dict(columns)}


def classification(path: Path, split: str) -> Splits:
    """Texts with a label, from a folder with files `train` and SPLIT of `text`, `label`."""
    task = ClassificationTask.read(path, split)
    numbers = {label: i for i, label in enumerate(dict.fromkeys(task.train_labels))}
    for label in task.test_labels:
        numbers.setdefault(label, len(numbers))
    sides = {
        "train": (task.train_texts, task.train_labels),
        split: (task.test_texts, task.test_labels),
    }
    return {
        name: Dataset.from_dict({"text": texts, "label": [numbers[label] for label in labels]})
        for name, (texts, labels) in sides.items()
    }


def clustering(path: Path, split: str) -> Splits:
    """Texts with the name of their cluster, from a file with `text`, `label`."""
    rows = [row for _, row in _rows(path, ("text", "label"), texts=1)]
    texts, labels = (list(column) for column in zip(*rows, strict=True))
    if len(set(labels)) < 2:
        raise UserError(f"{path}: expected at least two labels, but got {len(set(labels))}.")
    return {
        split: Dataset.from_dict({"sentences": texts, "labels": [str(each) for each in labels]})
    }


def retrieval(path: Path, split: str) -> Splits:
    """Queries and documents, from a folder in BEIR's layout."""
    task = RetrievalTask.from_folder(path, split)
    return {split: _retrieval(task.queries, task.corpus, task.relevant)}


def finds_itself(path: Path, split: str) -> bool:
    """Whether queries of a folder in BEIR's layout are documents too, to be left out."""
    return bool(own_documents(RetrievalTask.from_folder(path, split)))


def reranking(path: Path, split: str) -> Splits:
    """Candidates for each query, from a file with `query`, `positive`, `negative`.

    `positive` and `negative` are texts or lists of texts. As in MTEB, the positives of a query come
    first, and a query that lacks one of the two is left out.
    """
    queries: dict[str, str] = {}
    corpus: dict[str, str] = {}
    relevant: dict[str, dict[str, int]] = {}
    candidates: dict[str, list[str]] = {}
    columns = ("query", "positive", "negative")
    rows = _rows(path, columns, texts=1)
    for number, (place, (query, positive, negative)) in enumerate(rows):
        sides = [_texts(side, place) for side in (positive, negative)]
        if not all(sides):
            continue
        name = f"query{number}"
        queries[name] = query
        relevant[name] = {}
        for kind, gain, side in zip("ab", (1, 0), sides, strict=True):
            for i, text in enumerate(side):
                document = f"{kind}_{name}_{i:05d}"
                corpus[document] = text
                relevant[name][document] = gain
        candidates[name] = list(relevant[name])
    if not queries:
        raise UserError(f"{path}: expected queries with a positive and a negative, but got none.")
    return {split: _retrieval(queries, corpus, relevant, candidates)}


READERS: dict[str, Callable[[Path, str], Splits]] = {
    "sts": sts,
    "retrieval": retrieval,
    "reranking": reranking,
    "classification": classification,
    "clustering": clustering,
    "pair_classification": pair_classification,
}
"""Kind of task, as its folder is called -> how its data is read."""

FOLDERS = ("retrieval", "classification")
"""Kinds of which a task is a folder, not a file."""


def is_task(kind: str, path: Path) -> bool:
    """Whether a file or folder may be a task of this kind; hidden ones and notes are not."""
    if path.name.startswith("."):
        return False
    return path.is_dir() if kind in FOLDERS else extension(path) in RECORD_READERS


def _retrieval(
    queries: dict[str, str],
    corpus: dict[str, str],
    relevant: dict[str, dict[str, int]],
    candidates: dict[str, list[str]] | None = None,
) -> dict[str, Any]:
    sides = {
        side: Dataset.from_dict({"id": list(texts), "text": list(texts.values())})
        for side, texts in (("queries", queries), ("corpus", corpus))
    }
    return {**sides, "relevant_docs": relevant, "top_ranked": candidates}


def _rows(path: Path, columns: tuple[str, ...], texts: int) -> Iterator[tuple[str, list[Any]]]:
    """The place and the values of each row, of which the first few are texts."""
    empty = True
    for row in read_records(path, columns):
        if not isinstance(row.value, dict):
            raise UserError(f"{row.place}: expected {', '.join(columns)}, but got {row.value}.")
        values = [row.value.get(column) for column in columns]
        for value, column in zip(values[:texts], columns, strict=False):
            if problem := problem_of(value):
                raise UserError(f"{row.place}: expected a text in {column!r}, but got {problem}.")
        for value, column in zip(values[texts:], columns[texts:], strict=True):
            if value is None:
                raise UserError(f"{row.place}: expected a value in {column!r}, but got none.")
        yield row.place, values
        empty = False
    if empty:
        raise UserError(f"{path} holds no rows; expected {', '.join(columns)} in each.")


def _texts(side: object, place: str) -> list[str]:
    texts: list[Any] = side if isinstance(side, list) else [side]
    for text in texts:
        if problem := problem_of(text):
            raise UserError(f"{place}: expected texts as candidates, but got {problem}.")
    return texts
