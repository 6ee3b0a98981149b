"""Rankings -> numbers: nDCG, recall and MRR with graded relevance, as trec_eval defines them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

DEPTH = 10  # documents of a ranking that count for nDCG and MRR
RECALL_DEPTHS = (1, 10, 100)


def ranking_metrics(
    rankings: Sequence[Sequence[str]], gains: Sequence[Mapping[str, int]]
) -> dict[str, float]:
    """All metrics, averaged over queries, each in [0, 1].

    Args:
        rankings: documents of each query, the best first; at least 100 if there are that many.
        gains: document -> gain for each query; at least one gain is above 0.

    Returns:
        `ndcg@10`, `recall@1`, `recall@10`, `recall@100` and `mrr@10`.
    """
    pairs = list(zip(rankings, gains, strict=True))
    metrics = {f"ndcg@{DEPTH}": _mean(ndcg(ranking, gain) for ranking, gain in pairs)}
    for depth in RECALL_DEPTHS:
        metrics[f"recall@{depth}"] = _mean(recall(ranking, gain, depth) for ranking, gain in pairs)
    metrics[f"mrr@{DEPTH}"] = _mean(reciprocal_rank(ranking, gain) for ranking, gain in pairs)
    return metrics


def ndcg(ranking: Sequence[str], gains: Mapping[str, int], depth: int = DEPTH) -> float:
    """Discounted gain of a ranking's first `depth`, divided by that of the best possible ranking.

    Gains are linear (Järvelin and Kekäläinen 2002), discounted by log2(1 + rank); gains below 0
    count as 0.

    >>> ndcg(["b", "a"], {"a": 1})
    0.6309297535714575
    """
    found = _discounted(gains.get(name, 0) for name in ranking[:depth])
    best = _discounted(sorted(gains.values(), reverse=True)[:depth])
    return found / best if best else 0.0


def recall(ranking: Sequence[str], gains: Mapping[str, int], depth: int) -> float:
    """The share of the documents with a gain above 0 that are among the first `depth`."""
    relevant = {name for name, gain in gains.items() if gain > 0}
    return len(relevant & set(ranking[:depth])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], gains: Mapping[str, int], depth: int = DEPTH) -> float:
    """1 / rank of the first document with a gain above 0; 0 if there is none within `depth`.

    >>> reciprocal_rank(["b", "c", "a"], {"a": 2, "c": 1})
    0.5
    """
    for place, name in enumerate(ranking[:depth], 1):
        if gains.get(name, 0) > 0:
            return 1 / place
    return 0.0


def _discounted(gains: Iterable[int]) -> float:
    return sum(max(gain, 0) / math.log2(place + 2) for place, gain in enumerate(gains))


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values)
