"""The embedded texts of a contrastive batch, of one rank or of all."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from llm2vec_pl.distributed import gather_rows, row_counts, world
from llm2vec_pl.objectives.info_nce import EachText


class Texts(NamedTuple):
    """The embedded texts of a batch.

    An embedding is a vector, or for late interaction one for each of L tokens, (L, D).
    """

    queries: Tensor  # (B, D)
    positives: Tensor  # (B, D)
    negatives: Tensor  # (N, D)
    query_index: Tensor  # (N,)
    ids: EachText | None
    guide: EachText | None = None

    def parts(self, dim: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, positives and negatives; only their leading dimensions if `dim` is given."""
        return self.queries[..., :dim], self.positives[..., :dim], self.negatives[..., :dim]


def gather(texts: Texts) -> tuple[Texts, slice, float]:
    """The texts of all ranks, which queries are this rank's, and the weight of this rank's mean.

    Ranks may hold different numbers of texts. The weights' mean over ranks is 1.
    """
    counts = row_counts(texts.queries, texts.negatives)
    queries, negatives = zip(*counts, strict=True)
    rank, ranks = world()
    before = sum(queries[:rank])
    rows = slice(before, before + queries[rank])
    of_each = (queries, queries, negatives)

    def everyone(parts: EachText | None) -> EachText | None:
        return parts and EachText(*map(gather_rows, parts, of_each))

    embedded = [
        gather_rows(_widened(part), count)
        for part, count in zip(texts.parts(), of_each, strict=True)
    ]
    gathered = Texts(
        queries=embedded[0],
        positives=embedded[1],
        negatives=embedded[2],
        query_index=gather_rows(texts.query_index + before, negatives),
        ids=everyone(texts.ids),
        guide=everyone(texts.guide),
    )
    return gathered, rows, queries[rank] * ranks / sum(queries)


def _widened(embeddings: Tensor) -> Tensor:
    """Embeddings of tokens, (T, L, D), with as many tokens as any rank's; others as they are."""
    if embeddings.dim() < 3:
        return embeddings
    longest = max(tokens for (tokens,) in row_counts(embeddings.transpose(0, 1)))
    return F.pad(embeddings, (0, 0, 0, longest - embeddings.shape[1]))
