"""Spread-out regularisation: texts that have nothing to do with each other shall be orthogonal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llm2vec_pl.objectives.info_nce import cosines


def spread_out(parts: Sequence[Tensor], ids: Sequence[Tensor] | None = None) -> Tensor:
    """How far cosines between texts are from those of random directions (Zhang et al. 2017, eq. 5).

    Directions that are uniform on the sphere have cosines of mean 0 and second moment 1 / D. The
    loss is the square of the mean, plus whatever the second moment is above 1 / D. Texts are
    compared within each part only, so that a query and its positive may be close.

    Args:
        parts: embeddings of queries, of positives and perhaps of negatives, (T, D) each, of any
            norm.
        ids: of each part's texts, (T,); equal texts are not compared.

    Returns:
        The mean over the parts, a scalar in float32; a part with fewer than two texts counts as 0.
    """
    losses = []
    for i, part in enumerate(parts):
        known = torch.arange(len(part), device=part.device) if ids is None else ids[i]
        same = known[:, None] == known[None, :]  # (T, T)
        scores = cosines(part, part).masked_fill(same, 0.0)
        count = (~same).sum().clamp(min=1)
        mean, second_moment = scores.sum() / count, scores.square().sum() / count
        losses.append(mean.square() + (second_moment - 1 / part.shape[1]).clamp(min=0))
    return torch.stack(losses).mean()
