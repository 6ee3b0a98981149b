"""InfoNCE: each query has to find its positive among the texts of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Score = Callable[[Tensor, Tensor], Tensor]
"""Scores of R queries with C candidates, (R, C) in float32, from their embeddings."""


class EachText(NamedTuple):
    """Something known of each text of a batch: an id, or the embedding by another encoder."""

    query: Tensor  # (B, ...)
    positive: Tensor  # (B, ...)
    negative: Tensor  # (N, ...)


def info_nce(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor | None = None,
    temperature: float | Tensor = 0.05,
    *,
    in_batch: bool = True,
    symmetric: bool = False,
    query_index: Tensor | None = None,
    ids: EachText | None = None,
    margin: float | None = None,
    guide: EachText | None = None,
    rows: slice | None = None,
    score: Score | None = None,
) -> Tensor:
    """Each query has to find its positive among the candidates (van den Oord et al. 2018, eq. 4).

    The candidates are the positives of all queries and all negatives. The loss is -log softmax of
    the cosine similarities divided by the temperature, as in SimCSE (Gao et al. 2021, eq. 1, 5).

    Args:
        queries: (B, D), of any norm: they are normalised here.
        positives: (B, D), in the order of the queries.
        negatives: hard negatives, (N, D); any number per query.
        temperature: the number that similarities are divided by.
        in_batch: whether the other queries' positives and negatives are candidates too.
        symmetric: also let each positive find its query among all queries, and average both losses.
        query_index: the query that each negative belongs to, (N,); needed if `in_batch` is off.
        ids: if given, a query ignores candidates that are the same text as itself or its positive,
            and the positives of equal queries.
        margin: if given, candidates that score above the positive's similarity minus this are
            ignored as false negatives.
        guide: embeddings of the same texts by another encoder, whose cosine similarities the
            margin is for, in place of those that are trained.
        rows: which queries (and positives) to compute the loss of, in a batch gathered from several
            ranks; all if None.
        score: how similar a query is to a candidate; by default the cosine of two vectors.

    Returns:
        The mean over the rows, in nats: a scalar in float32.

    Raises:
        ValueError: if the numbers of rows do not fit, or there is nothing to compare queries with.

    >>> texts = torch.eye(2)
    >>> info_nce(texts, texts, temperature=1.0).item()  # -log(e / (e + 1))
    0.31326165795326233
    """
    if symmetric and not in_batch:
        raise ValueError("`symmetric=True` compares with the batch: it needs `in_batch=True`.")
    rows = rows or slice(len(queries))
    score = score or cosines
    forward = similarities(
        queries,
        positives,
        negatives,
        in_batch=in_batch,
        query_index=query_index,
        ids=ids,
        margin=margin,
        guide=guide,
        rows=rows,
        temperature=temperature,
        score=score,
    )
    targets = torch.arange(len(queries), device=queries.device)[rows]
    loss = F.cross_entropy(forward, targets)
    if not symmetric:
        return loss
    backward = similarities(
        positives,
        queries,
        ids=_swapped(ids),
        margin=margin,
        guide=_swapped(guide),
        rows=rows,
        temperature=temperature,
        score=lambda texts, searching: score(searching, texts).T,
    )
    return (loss + F.cross_entropy(backward, targets)) / 2


def similarities(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor | None = None,
    *,
    in_batch: bool = True,
    query_index: Tensor | None = None,
    ids: EachText | None = None,
    margin: float | None = None,
    guide: EachText | None = None,
    rows: slice | None = None,
    temperature: float | Tensor = 1.0,
    score: Score | None = None,
) -> Tensor:
    """Similarity of each query with each candidate, -inf for candidates that it ignores.

    Args: those of `info_nce`.

    Returns:
        (R, B + N) in float32 for R rows, divided by the temperature; query i's positive is
        candidate i.
    """
    _check_rows(queries, positives, negatives, in_batch, query_index)
    rows = rows or slice(len(queries))
    candidates = positives if negatives is None else torch.cat([positives, negatives])
    scores = (score or cosines)(queries[rows], candidates)  # (R, B + N)
    own = torch.arange(len(queries), device=scores.device)[rows, None]  # (R, 1)
    ignored = torch.zeros_like(scores, dtype=torch.bool)
    if ids is not None:
        ignored |= _same_text(ids, rows)
    if margin is not None:
        judged = scores.detach() if guide is None else _guided(guide, rows)
        ignored |= judged > judged.gather(1, own) - margin
    if not in_batch:
        owners = torch.arange(len(positives), device=scores.device)
        if query_index is not None:
            owners = torch.cat([owners, query_index])
        ignored |= owners != own
    # After the division: the derivative of -inf / temperature is not a number.
    return (scores / temperature).masked_fill(ignored.scatter(1, own, False), -torch.inf)


def cosines(queries: Tensor, candidates: Tensor) -> Tensor:
    """Cosine similarity of each query (R, D) with each candidate (C, D), (R, C) in float32."""
    # Autocast would multiply in half precision, where close candidates score the same.
    with torch.autocast(queries.device.type, enabled=False):
        return F.normalize(queries.float(), dim=-1) @ F.normalize(candidates.float(), dim=-1).T


def _guided(guide: EachText, rows: slice) -> Tensor:
    """The guide's similarity of each query with each candidate, (R, B + N)."""
    return cosines(guide.query[rows], torch.cat([guide.positive, guide.negative])).detach()


def _swapped(parts: EachText | None) -> EachText | None:
    """What is known of the texts if each positive looks for its query."""
    return parts and EachText(parts.positive, parts.query, parts.negative[:0])


def _same_text(ids: EachText, rows: slice) -> Tensor:
    """Which candidates are right answers too, (R, B + N)."""
    query, positive = ids.query[rows, None], ids.positive[rows, None]  # (R, 1)
    candidates = torch.cat([ids.positive, ids.negative])
    same = (candidates == query) | (candidates == positive)
    same[:, : len(ids.query)] |= ids.query == query
    return same


def _check_rows(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor | None,
    in_batch: bool,
    query_index: Tensor | None,
) -> None:
    if len(queries) != len(positives):
        raise ValueError(
            f"info_nce expects one positive per query, but got {len(queries)} queries and "
            f"{len(positives)} positives."
        )
    owners = 0 if query_index is None else len(query_index)
    wanted = 0 if negatives is None else len(negatives)
    if owners != wanted and (owners or not in_batch):
        raise ValueError(
            f"info_nce expects a `query_index` for each negative, but got {owners} for {wanted}."
        )
    if not in_batch and not wanted:
        raise ValueError(
            "info_nce has nothing to compare the queries with: there are no hard negatives. Give "
            "some, or set `in_batch=True`."
        )
