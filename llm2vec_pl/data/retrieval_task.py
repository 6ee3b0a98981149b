"""Retrieval tasks, from a folder or the hub in BEIR's layout (Thakur et al. 2021)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm2vec_pl.data.files import load_split, spread
from llm2vec_pl.errors import UserError

# (place, query id, document id, gain)
Judgement = tuple[str, str, str, object]


@dataclass(frozen=True)
class RetrievalTask:
    """Queries, the documents to search, and which document answers which query.

    Args:
        name: the task's name in tables and logs.
        queries: query id -> text.
        corpus: document id -> text.
        relevant: query id -> {document id: gain}; other documents have gain 0, and named documents
            that are not in the corpus count as not found.
        notes: lines to print, such as what was left out when the task was read.

    Raises:
        UserError: if there is no query or no document.
    """

    name: str
    queries: dict[str, str]
    corpus: dict[str, str]
    relevant: dict[str, dict[str, int]]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.queries or not self.corpus:
            raise UserError(
                f"The retrieval task {self.name} has {len(self.queries)} queries and "
                f"{len(self.corpus)} documents, but needs at least one of each. Give more data."
            )

    @classmethod
    def from_folder(
        cls, path: str | Path, split: str = "test", name: str | None = None
    ) -> RetrievalTask:
        """Reads BEIR's layout: `corpus.jsonl`, `queries.jsonl` and `qrels/SPLIT.tsv`.

        A document's title and text are joined by a blank, as in BEIR. Queries that the split does
        not judge, or without a relevant document in it, are left out, and so are judgements of
        unknown queries. Documents that are judged but not in the corpus count as not found, as in
        trec_eval. `notes` counts all of these.

        Args:
            path: the folder.
            split: split of the judgements: `test`, `dev` or `train`.
            name: the task's name; the folder's by default.

        Raises:
            UserError: with file and line, for anything that does not have this layout.
        """
        return _read_folder(Path(path).expanduser(), split, name)

    @classmethod
    def from_hub(cls, path: str, split: str = "test", name: str | None = None) -> RetrievalTask:
        """Reads a data set of the hub in mteb's layout, such as `mteb/scifact`.

        Args:
            path: the data set; it has the subsets `corpus`, `queries` and `default`.
            split: split of the judgements.
            name: the task's name; the last part of the hub's name by default.

        Raises:
            UserError: if the data set cannot be loaded.
        """
        return _read_hub(path, split, name)

    def limited(self, queries: int | None, documents: int | None = None) -> RetrievalTask:
        """At most this many of the queries and documents, evenly spread over the task.

        Documents that are judged for the remaining queries are kept, even beyond the limit. A
        smaller corpus makes an easier task.
        """
        ids, names = list(self.queries), list(self.corpus)
        chosen = [ids[i] for i in spread(len(ids), queries)]
        judged = {name for query in chosen for name in self.relevant.get(query, {})}
        others = [name for name in names if name not in judged]
        room = None if documents is None else max(0, documents - (len(names) - len(others)))
        kept = judged | {others[i] for i in spread(len(others), room)}
        return replace(
            self,
            queries={query: self.queries[query] for query in chosen},
            corpus={name: text for name, text in self.corpus.items() if name in kept},
            relevant={q: self.relevant[q] for q in chosen if q in self.relevant},
        )


def own_documents(task: RetrievalTask) -> set[str]:
    """The ids of queries that are documents themselves, and must not find themselves.

    Like BEIR, this compares only ids. If a query has the same id as the document that answers it,
    as in a list of pairs with one id each, the two are not the same text.
    """
    return {
        query
        for query in task.queries
        if query in task.corpus and task.relevant.get(query, {}).get(query, 0) <= 0
    }


def _read_folder(folder: Path, split: str, name: str | None) -> RetrievalTask:
    """See `RetrievalTask.from_folder`."""
    qrels = folder / "qrels" / f"{split}.tsv"
    for file in (folder / "corpus.jsonl", folder / "queries.jsonl", qrels):
        if not file.is_file():
            splits = ", ".join(sorted(path.stem for path in folder.glob("qrels/*.tsv")))
            raise UserError(
                f"{file} does not exist. A retrieval task is a folder with corpus.jsonl, "
                f"queries.jsonl and qrels/SPLIT.tsv (splits found: {splits or 'none'})."
            )
    return _task(
        name or folder.resolve().name,
        queries=_texts(folder / "queries.jsonl", _objects(folder / "queries.jsonl")),
        corpus=_texts(folder / "corpus.jsonl", _objects(folder / "corpus.jsonl")),
        judgements=_judgements(qrels),
        where=str(qrels),
    )


def _read_hub(path: str, split: str, name: str | None) -> RetrievalTask:
    """See `RetrievalTask.from_hub`."""
    columns = ["query-id", "corpus-id", "score"]
    qrels = load_split(path, "default", split, columns)
    return _task(
        name or path.split("/")[-1],
        queries=_texts(path, _rows(path, "queries")),
        corpus=_texts(path, _rows(path, "corpus")),
        judgements=(
            (f"{path} ({split}) row {number:,}", *(row[column] for column in columns))
            for number, row in enumerate(qrels, 1)
        ),
        where=f"{path} ({split})",
    )


def _task(
    name: str,
    queries: dict[str, str],
    corpus: dict[str, str],
    judgements: Iterable[Judgement],
    where: str,
) -> RetrievalTask:
    relevant = _gains(judgements)
    judged = {query: gains for query, gains in relevant.items() if query in queries}
    answered = {query: gains for query, gains in judged.items() if max(gains.values()) > 0}
    if not answered:
        raise UserError(
            f"{where}: expected queries with relevant documents, but none is left of "
            f"{len(relevant):,} judged and {len(queries):,} known queries. Do the ids match?"
        )
    unknown = sum(document not in corpus for gains in answered.values() for document in gains)
    counts = {
        "{:,} queries left out: not judged in this split": len(queries) - len(judged),
        "{:,} queries left out: no relevant document": len(judged) - len(answered),
        "judgements of {:,} unknown queries left out": len(relevant) - len(judged),
        "{:,} judged documents are not in the corpus: they count as not found": unknown,
    }
    task = RetrievalTask(
        name,
        queries={query: text for query, text in queries.items() if query in answered},
        corpus=corpus,
        relevant=answered,
    )
    own = len(own_documents(task))
    counts["{:,} queries are documents too: each is left out of its own ranking"] = own
    notes = tuple(f"{name}: {line.format(n)}" for line, n in counts.items() if n)
    return replace(task, notes=notes)


def _gains(judgements: Iterable[Judgement]) -> dict[str, dict[str, int]]:
    """Query id -> {document id: gain}."""
    relevant: dict[str, dict[str, int]] = {}
    for place, query, document, value in judgements:
        gain = _gain(value, place)
        if relevant.setdefault(str(query), {}).setdefault(str(document), gain) != gain:
            raise UserError(
                f"{place} judges document {document!r} for query {query!r} a second time, with "
                "a different score. Remove one of the two lines."
            )
    return relevant


def _texts(source: Path | str, rows: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, str]:
    """Id -> text, preceded by the title if there is one."""
    texts: dict[str, str] = {}
    for where, row in rows:
        key, text, title = row.get("_id"), row.get("text"), row.get("title") or ""
        if not isinstance(key, (str, int)) or not isinstance(text, str):
            raise UserError(
                f"{where}: expected an object with '_id' and 'text', but got the keys "
                f"{', '.join(row) or 'none'}."
            )
        if str(key) in texts:
            raise UserError(f"{where}: the _id {key!r} occurs a second time. Ids must be unique.")
        texts[str(key)] = f"{title} {text}".strip()
    if not texts:
        raise UserError(f"{source} holds no text; expected one JSON object per line.")
    return texts


def _objects(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with file.open("rb") as lines:  # a line ends at \n, not at Unicode's other line ends
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{file} line {number:,}: broken JSON ({error}). Correct the line."
                ) from error
            yield f"{file} line {number:,}", row if isinstance(row, dict) else {}


def _rows(path: str, subset: str) -> Iterator[tuple[str, dict[str, Any]]]:
    # mteb gives the split the subset's name.
    for number, row in enumerate(load_split(path, subset, subset, ["_id", "text"]), 1):
        yield f"{path} ({subset}) row {number:,}", row


def _judgements(file: Path) -> Iterator[Judgement]:
    with file.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.rstrip("\r\n").split("\t")
            if not line.strip() or (number == 1 and fields[-1] == "score"):
                continue
            place = f"{file} line {number:,}"
            if len(fields) != 3:
                raise UserError(
                    f"{place}: expected three fields separated by tabs (query-id, corpus-id, "
                    f"score), but got {len(fields)}."
                )
            yield place, fields[0], fields[1], fields[2]


def _gain(value: object, place: str) -> int:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = 0.5
    if not number.is_integer():
        raise UserError(f"{place}: expected a whole number as the score, but got {value!r}.")
    return int(number)
