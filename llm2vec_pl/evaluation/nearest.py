"""The nearest documents of each query, found chunk by chunk in bounded memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm2vec_pl.encoder import max_sim

_QUERIES_AT_ONCE = 1024
_DOCUMENTS_AT_ONCE = 8192  # 32 MB of scores, twice that of keys


class Nearest:
    """The `depth` documents with the highest cosine similarity to each query, of all those added.

    Documents with the same score keep the order in which they were added: the result does not
    depend on how the documents are cut into chunks.

    Texts with a vector for each token, 0 in the place of padding, are compared by MaxSim instead.

    Args:
        queries: (Q, D), or (Q, L, D) for MaxSim; the scores are computed on their device.
        depth: number of documents to keep for each query.
        own: (P, 2), pairs of a query's and a document's number. They are scored separately, in
            `own_scores`, and are not among the nearest.
    """

    def __init__(self, queries: Tensor, depth: int, own: Tensor | None = None) -> None:
        self.queries = F.normalize(queries.float(), dim=-1)
        self.depth = depth
        device = queries.device
        self.own = torch.empty(0, 2, dtype=torch.long) if own is None else own
        self.own = self.own.to(device)
        self.own_scores = torch.full((len(self.own),), torch.nan, device=device)
        self.added = 0
        self._keys = torch.empty(len(queries), 0, dtype=torch.long, device=device)  # (Q, K)

    def add(self, documents: Tensor) -> None:
        """Adds documents, (N, D) or (N, L, D); their numbers continue from those before."""
        for chunk in documents.split(_DOCUMENTS_AT_ONCE):
            self._add(F.normalize(chunk.float().to(self.queries.device), dim=-1))

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def indices(self) -> Tensor:
        """The numbers of the nearest documents, nearest first, (Q, K)."""
        return _LAST - (self._keys & _LAST)

    @property
    def scores(self) -> Tensor:
        """Their cosine similarities, (Q, K); -inf for own documents, which come last."""
        bits = (self._keys >> 32).int()
        return _mirrored(bits).view(torch.float32)

    def _add(self, documents: Tensor) -> None:
        first, end = self.added, self.added + len(documents)
        places = torch.arange(first, end, device=documents.device)
        inside = ((self.own[:, 1] >= first) & (self.own[:, 1] < end)).nonzero().flatten()
        kept = []
        for start in range(0, len(self.queries), _QUERIES_AT_ONCE):
            queries = slice(start, start + _QUERIES_AT_ONCE)
            scores = _scores(self.queries[queries], documents)  # (Q', N)
            self._set_apart(scores, inside, start, first)
            keys = torch.cat([self._keys[queries], _highest(scores, places, self.depth)], dim=1)
            kept.append(keys.topk(min(self.depth, keys.shape[1])).values)
        self._keys = torch.cat(kept)
        self.added = end

    def _set_apart(self, scores: Tensor, inside: Tensor, start: int, first: int) -> None:
        numbers = self.own[inside, 0]
        pairs = inside[(numbers >= start) & (numbers < start + len(scores))]
        rows, columns = self.own[pairs, 0] - start, self.own[pairs, 1] - first
        self.own_scores[pairs] = scores[rows, columns]
        scores[rows, columns] = -torch.inf


def search_device(encoder: nn.Module) -> torch.device:
    """The device to compare embeddings on: the encoder's GPU if it is on one, else the CPU."""
    device = next(encoder.parameters()).device
    return device if device.type == "cuda" else torch.device("cpu")


def _scores(queries: Tensor, documents: Tensor) -> Tensor:
    """Cosines of normalised vectors, or MaxSim if there is one for each token, (Q, N)."""
    return max_sim(queries, documents) if queries.dim() == 3 else queries @ documents.T


_LAST = 2**32 - 1


def _highest(scores: Tensor, places: Tensor, depth: int) -> Tensor:
    """The keys of the `depth` highest scores of each query (Q, N), and possibly of one more."""
    values, columns = scores.topk(min(depth + 1, scores.shape[1]))  # faster than topk of keys
    keys = _keys(values, places[columns])
    if values.shape[1] > depth:
        # If the last score to keep and the first to drop are equal, topk may have taken either.
        tied = values[:, depth - 1] == values[:, depth]
        keys[tied] = _keys(scores[tied], places).topk(depth + 1).values
    return keys


def _keys(scores: Tensor, places: Tensor) -> Tensor:
    """Integers in the order of the scores (Q, N); for equal scores, the first place is highest.

    The order of float32 numbers is that of their bits read as integers, except for negative ones,
    whose order is reversed. The place fills the lower half.
    """
    bits = _mirrored((scores + 0.0).view(torch.int32)).long()  # -0.0 + 0.0 is 0.0
    return (bits << 32) | (_LAST - places)


def _mirrored(bits: Tensor) -> Tensor:
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
