"""Retrieval: does a query's own document come first?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llm2vec_pl.encoder import Encoder

DEPTH = 10  # documents of a ranking that count


@dataclass(frozen=True)
class RetrievalTask:
    """Queries, the documents to search, and which document answers which query.

    Args:
        name: what the task is called in tables and logs.
        queries: query id -> text.
        corpus: document id -> text.
        relevant: query id -> {document id: gain}; documents not named have gain 0.
    """

    name: str
    queries: dict[str, str]
    corpus: dict[str, str]
    relevant: dict[str, dict[str, int]]


def evaluate_retrieval(
    encoder: Encoder, task: RetrievalTask, batch_size: int = 64
) -> dict[str, float]:
    """Ranks the corpus for each query by cosine similarity.

    Args:
        encoder: embeds queries and documents alike, without an instruction.
        task: what to search for where.
        batch_size: texts that go through the decoder at once.

    Returns:
        `ndcg@10`, the mean over queries of the normalised discounted cumulative gain (Järvelin and
        Kekäläinen 2002), and `recall@1`, the share of relevant documents ranked first; both in
        [0, 1].
    """
    documents = F.normalize(encoder.encode(list(task.corpus.values()), batch_size=batch_size))
    queries = F.normalize(encoder.encode(list(task.queries.values()), batch_size=batch_size))
    rankings = rank(queries, documents, list(task.corpus))
    gains = [task.relevant.get(query, {}) for query in task.queries]
    return {
        f"ndcg@{DEPTH}": _mean(map(ndcg, rankings, gains)),
        "recall@1": _mean(recall(r, g, depth=1) for r, g in zip(rankings, gains, strict=True)),
    }


def rank(queries: Tensor, documents: Tensor, names: list[str]) -> list[list[str]]:
    """The names of the nearest documents of each query, nearest first.

    Args:
        queries: (Q, D).
        documents: (N, D).
        names: of the documents.
    """
    depth = min(DEPTH, len(names))
    return [
        [names[i] for i in row.tolist()]
        for chunk in queries.split(1024)  # (Q', N) scores at a time
        for row in (chunk @ documents.T).topk(depth).indices
    ]


def ndcg(ranking: list[str], gains: Mapping[str, int]) -> float:
    """Discounted gain of a ranking's first ten, over that of the best possible ranking.

    >>> ndcg(["b", "a"], {"a": 1})
    0.6309297535714575
    """
    found = _discounted(gains.get(name, 0) for name in ranking[:DEPTH])
    best = _discounted(sorted(gains.values(), reverse=True)[:DEPTH])
    return found / best if best else 0.0


def recall(ranking: list[str], gains: Mapping[str, int], depth: int) -> float:
    """The share of the relevant documents that are among the first `depth`."""
    relevant = {name for name, gain in gains.items() if gain > 0}
    return len(relevant & set(ranking[:depth])) / len(relevant) if relevant else 0.0


def _discounted(gains: Iterable[int]) -> float:
    return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains))


def _mean(values: Iterable[float]) -> float:
    return torch.tensor(list(values)).mean().item()
