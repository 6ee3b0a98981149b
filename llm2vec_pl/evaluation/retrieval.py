"""Retrieval: does a query's own document come first?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.embedding import embedder
from llm2vec_pl.evaluation.nearest import Nearest, search_device
from llm2vec_pl.evaluation.ranking import RECALL_DEPTHS, ranking_metrics
from llm2vec_pl.evaluation.sts import spread

_DOCUMENTS_AT_ONCE = 32768  # embedded and compared before the next ones are


@dataclass(frozen=True)
class RetrievalTask:
    """Queries, the documents to search, and which document answers which query.

    Args:
        name: what the task is called in tables and logs.
        queries: query id -> text.
        corpus: document id -> text.
        relevant: query id -> {document id: gain}; documents not named have gain 0, and documents
            named that are not in the corpus count as not found.
        notes: what was left out when the task was read, and the like: lines to print.

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
                f"{len(self.corpus)} documents; it needs at least one of each."
            )

    @classmethod
    def from_folder(
        cls, path: str | Path, split: str = "test", name: str | None = None
    ) -> RetrievalTask:
        """Reads BEIR's layout: `corpus.jsonl`, `queries.jsonl` and `qrels/SPLIT.tsv`.

        A document's title and text are joined by a blank, as BEIR does. Queries that the split
        does not judge, or for which it has no relevant document, are left out; judgements of
        unknown queries too. Documents that are judged but not in the corpus count as not found,
        as in trec_eval. `notes` counts all of these.

        Args:
            path: the folder.
            split: of the judgements: `test`, `dev` or `train`.
            name: the folder's if null.

        Raises:
            UserError: with file and line, for whatever cannot be read so.
        """
        from llm2vec_pl.evaluation.beir import read_folder

        return read_folder(Path(path).expanduser(), split, name)

    @classmethod
    def from_hub(cls, path: str, split: str = "test", name: str | None = None) -> RetrievalTask:
        """Reads a data set of the hub as mteb lays them out, such as `mteb/scifact`.

        Args:
            path: the data set; it has the subsets `corpus`, `queries` and `default`.
            split: of the judgements.
            name: the last part of the hub's name if null.

        Raises:
            UserError: if the hub does not give it.
        """
        from llm2vec_pl.evaluation.beir import read_hub

        return read_hub(path, split, name)

    def limited(self, queries: int | None, documents: int | None = None) -> RetrievalTask:
        """At most so many of the queries and documents, evenly spread over the task.

        Documents relevant to the queries left are kept, even beyond the limit; a smaller corpus
        makes an easier task.
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


def evaluate_retrieval(
    encoder: Encoder,
    task: RetrievalTask,
    batch_size: int = 64,
    query_instruction: str = "",
    document_instruction: str = "",
    on_all_ranks: bool = False,
) -> dict[str, float]:
    """Ranks the corpus for each query by cosine similarity.

    A document with the query's own id is left out of that query's ranking, as BEIR does (ArguAna,
    Quora), unless it is judged relevant to the query. The corpus is embedded and searched chunk by
    chunk. Of documents with the same score, the one that stands first in the corpus comes first.

    Args:
        encoder: embeds queries and documents.
        task: what to search for where.
        batch_size: texts that go through the decoder at once.
        query_instruction: written right before each query and not pooled.
        document_instruction: the same for documents.
        on_all_ranks: share the work out among all ranks, each of which must call this.

    Returns:
        `ndcg@10`, the mean over queries of the normalised discounted cumulative gain (Järvelin and
        Kekäläinen 2002), `recall@1`, `recall@10` and `recall@100`, the share of relevant documents
        among the first so many, and `mrr@10`, the mean reciprocal rank of the first relevant one;
        all in [0, 1]. NaN if an embedding is not finite.
    """
    embed = embedder(encoder, batch_size, on_all_ranks)
    texts = list(task.corpus.values())
    chunks = (
        embed(texts[start : start + _DOCUMENTS_AT_ONCE], document_instruction)
        for start in range(0, len(texts), _DOCUMENTS_AT_ONCE)
    )
    queries = embed(list(task.queries.values()), query_instruction)
    return search(task, queries.to(search_device(encoder)), chunks)


def search(task: RetrievalTask, queries: Tensor, documents: Iterable[Tensor]) -> dict[str, float]:
    """The metrics of `evaluate_retrieval`, from embeddings.

    Args:
        task: whose texts were embedded.
        queries: (Q, D); the scores are computed where they lie.
        documents: the corpus in chunks, (N', D) each, in order.
    """
    finite = bool(queries.isfinite().all())
    nearest = Nearest(queries, depth=max(RECALL_DEPTHS), own=_own_documents(task))
    for chunk in documents:  # to the end, also of NaN: all ranks embed the same number of chunks
        finite = finite and bool(chunk.isfinite().all())
        nearest.add(chunk)
    names = list(task.corpus)
    found = zip(nearest.indices.tolist(), nearest.scores.tolist(), strict=True)
    rankings = [
        [names[i] for i, score in zip(*row, strict=True) if score != -math.inf] for row in found
    ]
    gains: list[Mapping[str, int]] = [task.relevant.get(query, {}) for query in task.queries]
    metrics = ranking_metrics(rankings, gains)
    return metrics if finite else dict.fromkeys(metrics, math.nan)


def own_documents(task: RetrievalTask) -> set[str]:
    """The ids of queries that are documents themselves, which are not to find themselves.

    BEIR compares ids alone, and so does this. Where a query's id is that of the document that
    answers it, as in a list of pairs with an id each, the two are not one text.
    """
    return {
        query
        for query in task.queries
        if query in task.corpus and task.relevant.get(query, {}).get(query, 0) <= 0
    }


def _own_documents(task: RetrievalTask) -> Tensor:
    """(query, document) pairs of numbers, (P, 2)."""
    own = own_documents(task)
    places = {name: place for place, name in enumerate(task.corpus) if name in own}
    pairs = [(row, places[query]) for row, query in enumerate(task.queries) if query in own]
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
