"""MaxSim: texts compared token by token (ColBERT, Khattab and Zaharia 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

ELEMENTS_AT_ONCE = 2**24
"""Similarities of tokens in memory at once: 64 MB, and in training as much for their gradient."""


def max_sim(queries: Tensor, documents: Tensor) -> Tensor:
    """The mean over a query's tokens of the highest cosine with any token of a document.

    ColBERT takes the sum. The order of the documents is the same; the mean is in [-1, 1], like the
    cosine of two texts, however long the query is.

    Args:
        queries: vectors of any norm, (Q, L, D); those that are 0 are padding.
        documents: the same, (N, M, D), with at least one vector that is not 0 in each.

    Returns:
        (Q, N) in float32.

    >>> query = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    >>> max_sim(query, torch.tensor([[[3.0, 0.0], [0.0, 0.0]]])).tolist()
    [[0.5]]
    """
    queries, documents = (F.normalize(each.float(), dim=-1) for each in (queries, documents))
    counts = queries.any(dim=-1).sum(dim=-1).clamp(min=1)  # (Q,)
    pairs = max(1, ELEMENTS_AT_ONCE // max(1, queries.shape[1] * documents.shape[1]))
    some = documents.split(min(max(1, len(documents)), pairs))
    few = queries.split(max(1, pairs // max(1, len(some[0]))))
    sums = _sums if len(some) * len(few) == 1 or not torch.is_grad_enabled() else _computed_again
    rows = [torch.cat([sums(query, each) for each in some], dim=1) for query in few]
    return torch.cat(rows) / counts[:, None]


def _sums(queries: Tensor, documents: Tensor) -> Tensor:
    """ColBERT's sums, (Q, N). A padding token of a query is orthogonal to all and adds 0."""
    # Autocast would multiply in half precision, where close documents score the same.
    with torch.autocast(queries.device.type, enabled=False):
        scores = torch.einsum("qld,nmd->qnlm", queries, documents)  # (Q, N, L, M)
    padding = ~documents.any(dim=-1)  # (N, M)
    return scores.masked_fill(padding[:, None], -torch.inf).max(dim=-1).values.sum(dim=-1)


def _computed_again(queries: Tensor, documents: Tensor) -> Tensor:
    """The same; the backward pass computes the similarities again, to hold a part at a time."""
    sums: Tensor = checkpoint(
        _sums, queries, documents, use_reentrant=False, preserve_rng_state=False
    )
    return sums
