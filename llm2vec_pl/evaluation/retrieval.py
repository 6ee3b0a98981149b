"""Retrieval: does a query's own document come first?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from llm2vec_pl.data import RetrievalTask, own_documents
from llm2vec_pl.encoder import Encoder, MultiVectorEncoder
from llm2vec_pl.evaluation.embedding import embedder
from llm2vec_pl.evaluation.nearest import Nearest, search_device
from llm2vec_pl.evaluation.ranking import RECALL_DEPTHS, ranking_metrics

_DOCUMENTS_AT_ONCE = 32768  # embedded and compared before the next ones
_WITH_TOKENS_AT_ONCE = 1024  # the same, with a vector for each token: 128 of 128 take 64 MB


def evaluate_retrieval(
    encoder: Encoder | MultiVectorEncoder,
    task: RetrievalTask,
    batch_size: int = 64,
    query_instruction: str = "",
    document_instruction: str = "",
    on_all_ranks: bool = False,
) -> dict[str, float]:
    """Ranks the corpus for each query by cosine similarity, or by MaxSim.

    A document with the query's own id is left out of that query's ranking, as in BEIR (ArguAna,
    Quora), unless it is judged relevant to the query. The corpus is embedded and searched chunk by
    chunk. Documents with the same score keep their order in the corpus.

    Args:
        encoder: embeds queries and documents; MaxSim ranks those of a `MultiVectorEncoder`.
        task: the queries, the corpus and the judgements.
        batch_size: number of texts that go through the decoder at once.
        query_instruction: written directly before each query, and not pooled.
        document_instruction: the same for documents.
        on_all_ranks: divide the work among all ranks, each of which must call this.

    Returns:
        `ndcg@10`, the mean over queries of the normalised discounted cumulative gain (Järvelin and
        Kekäläinen 2002); `recall@1`, `recall@10` and `recall@100`, the share of relevant documents
        among the first 1, 10 and 100; and `mrr@10`, the mean reciprocal rank of the first relevant
        document. All are in [0, 1], or NaN if an embedding is not finite.
    """
    embed = embedder(encoder, batch_size, on_all_ranks)
    texts = list(task.corpus.values())
    many = isinstance(encoder, MultiVectorEncoder)
    size = _WITH_TOKENS_AT_ONCE if many else _DOCUMENTS_AT_ONCE
    chunks = (
        embed(texts[start : start + size], document_instruction)
        for start in range(0, len(texts), size)
    )
    queries = embed(list(task.queries.values()), query_instruction)
    return search(task, queries.to(search_device(encoder)), chunks)


def search(task: RetrievalTask, queries: Tensor, documents: Iterable[Tensor]) -> dict[str, float]:
    """The metrics of `evaluate_retrieval`, from embeddings.

    Args:
        task: the task whose texts were embedded.
        queries: (Q, D), or (Q, L, D) for MaxSim; the scores are computed on their device.
        documents: the corpus in chunks, (N', D) or (N', L, D) each, in order.
    """
    finite = bool(queries.isfinite().all())
    nearest = Nearest(queries, depth=max(RECALL_DEPTHS), own=_own_documents(task))
    for chunk in documents:  # to the end, even after a NaN: all ranks embed as many chunks
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


def _own_documents(task: RetrievalTask) -> Tensor:
    """(query, document) pairs of numbers of texts that are their own query, (P, 2)."""
    own = own_documents(task)
    places = {name: place for place, name in enumerate(task.corpus) if name in own}
    pairs = [(row, places[query]) for row, query in enumerate(task.queries) if query in own]
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
