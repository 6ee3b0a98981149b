"""How embeddings fill the space, by layer: alignment, uniformity, anisotropy, effective rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.evaluation import alignment, anisotropy, effective_rank, uniformity
from llm2vec_pl.evaluation.analysis.figures import (
    layer_axis,
    legend_below,
    lines_by_layer,
    panels,
)
from llm2vec_pl.evaluation.analysis.states import layer_embeddings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {
    "alignment": "alignment (low: pairs are close)",
    "uniformity": "uniformity (low: texts are spread out)",
    "anisotropy": "anisotropy (cosine of random pairs)",
    "effective_rank": "effective rank (dimensions in use)",
}

Pairs = tuple[Sequence[str], Sequence[str]]


def geometry(first: Tensor, second: Tensor) -> dict[str, float]:
    """Alignment of B pairs, and three measures of how their embeddings fill the space.

    Args:
        first: embeddings of one side of the pairs, (B, D), at least two.
        second: those of the other side, (B, D).

    Returns:
        `alignment` of the pairs; `uniformity`, `anisotropy` and `effective_rank`, each the mean of
        those of the two sides, so that no text is compared with its own partner. The effective rank
        is at most min(B, D).
    """
    sides = {"uniformity": uniformity, "anisotropy": anisotropy, "effective_rank": effective_rank}
    return {
        "alignment": alignment(first, second).item(),
        **{name: (of(first).item() + of(second).item()) / 2 for name, of in sides.items()},
    }


def geometry_by_layer(
    encoder: Encoder, pairs: Pairs, batch_size: int = 16
) -> dict[str, list[float]]:
    """`geometry` of each layer's embeddings, pooled as the encoder pools.

    Args:
        encoder: with a decoder of K layers.
        pairs: texts that belong together: B texts, and the B partners of these.
        batch_size: number of texts that go through the decoder at once.

    Returns:
        For each metric K + 1 numbers, one for each layer, that of the token embeddings first.
    """
    first, second = (
        layer_embeddings(encoder, list(side), [encoder.pooling], batch_size)[encoder.pooling]
        for side in pairs
    )
    rows = [geometry(a, b) for a, b in zip(first, second, strict=True)]
    return {name: [row[name] for row in rows] for name in METRICS}


def plot_geometry(found: Mapping[str, Mapping[str, list[float]]], pairs: int) -> Figure:
    """A panel for each metric, by layer.

    Args:
        found: of each encoder, by its name, what `geometry_by_layer` gives.
        pairs: their number.
    """
    figure, axes = panels(2, 2, width=4.8, height=3.1)
    for axis, (metric, title) in zip(axes.flat, METRICS.items(), strict=True):
        lines_by_layer(axis, {name: row[metric] for name, row in found.items()})
        axis.set_title(title, fontsize=10)
        layer_axis(axis)
    legend_below(figure, axes[0, 0])
    figure.suptitle(f"Geometry of the embeddings of {pairs} pairs of texts", fontsize=11)
    return figure
