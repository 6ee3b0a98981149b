"""Does an embedding use the future? Sentences with the same beginning and different ends.

LLM2Vec, section 4.1, after Springer et al. 2024 ("Repetition Improves Language Model Embeddings").
Neither the authors' code nor their 35 triples were released, so the triples are others, and these
numbers are not the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from llm2vec_pl.encoder import Encoder, TokenBatch, pool
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.analysis.figures import (
    layer_axis,
    legend_below,
    lines_by_layer,
    panels,
)
from llm2vec_pl.evaluation.analysis.states import batches, last_states, layer_states
from llm2vec_pl.evaluation.analysis.triples import Triple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIE = 1e-5
"""Cosines that differ by less are equal: this much is rounding in float32."""

Future = dict[str, list[float]]


def future_use(
    encoder: Encoder,
    triples: Sequence[Triple],
    batch_size: int = 16,
    every_layer: bool = True,
) -> Future:
    """How the tokens that three sentences begin with depend on how the sentences end.

    Each sentence is encoded whole, but only the tokens with which all three of a triple begin are
    pooled (their mean). These tokens are the same, so whatever tells the three embeddings apart has
    come from later tokens. To a causal decoder the three are one: all cosines are 1, and no answer
    is better than another. A bidirectional decoder tells them apart, and one that understands what
    it sees there puts the query nearer to the positive than to the negative.

    Args:
        encoder: with a decoder of K layers. Its `pooling` plays no part.
        triples: T triples.
        batch_size: number of triples that go through the decoder at once.
        every_layer: false for the last layer alone, which is quicker, and the only one that a
            sharded decoder gives.

    Returns:
        Lists of K + 1 numbers, one for each layer, that of the token embeddings first. `positive`
        and `negative`: the mean cosine of the query's beginning with that of the positive and of
        the negative. `margin`: their difference. `accuracy`: the share of triples whose positive
        is nearer, with ties as one half; 0.5 is chance, with a standard error of 0.5 / sqrt(T).

    Raises:
        UserError: if the sentences of a triple have no token in common, or are cut before they
            differ.
    """
    cosines = []
    for rows in batches(range(len(triples)), batch_size):
        texts = [text for i in rows for text in _of(triples[i])]
        batch = encoder.tokenize(texts)
        mask = beginnings(batch)
        _require_beginnings(mask, batch, texts, encoder.tokenize.max_length)
        states = layer_states(encoder, batch) if every_layer else last_states(encoder, batch)
        layers = [pool(layer, mask.to(layer.device)).cpu() for layer in states]
        embeddings = torch.stack(layers).unflatten(1, (-1, 3))  # (K + 1, B, 3, D)
        cosines.append(F.cosine_similarity(embeddings[:, :, :1], embeddings[:, :, 1:], dim=-1))
    return summary(torch.cat(cosines, dim=1))


def summary(cosines: Tensor) -> Future:
    """What `future_use` returns, from the cosines with positive and negative, (K + 1, T, 2)."""
    positive, negative = cosines.double().unbind(dim=-1)
    gains = positive - negative  # (K + 1, T)
    right = (gains > TIE).double() + 0.5 * (gains.abs() <= TIE)
    rows = {"positive": positive, "negative": negative, "margin": gains, "accuracy": right}
    return {name: values.mean(dim=1).tolist() for name, values in rows.items()}


def beginnings(batch: TokenBatch) -> Tensor:
    """Marks the text's tokens with which each three consecutive rows begin.

    Args:
        batch: `input_ids`, `attention_mask` and `pooling_mask`, each (3 T, L), padded on the right.

    Returns:
        (3 T, L), the same in all three rows of a triple.
    """
    ids, mask, own = (
        batch[key].unflatten(0, (-1, 3)) for key in ("input_ids", "attention_mask", "pooling_mask")
    )  # (T, 3, L)
    same = (ids == ids[:, :1]).all(dim=1) & mask.bool().all(dim=1) & (own == own[:, :1]).all(dim=1)
    common = same.long().cumprod(dim=1).unsqueeze(1)  # (T, 1, L): up to the first difference
    marked: Tensor = (common * own).flatten(0, 1)
    return marked


def _require_beginnings(mask: Tensor, batch: TokenBatch, texts: list[str], longest: int) -> None:
    ids = batch["input_ids"]
    for i in range(0, len(texts), 3):
        three = texts[i : i + 3]
        if not mask[i].any():
            raise UserError(f"The sentences of a triple begin with different tokens: {three}.")
        if any(ids[i].equal(ids[j]) for j in (i + 1, i + 2)):
            raise UserError(
                f"Two sentences of a triple are alike in their first {longest} tokens, where "
                f"`max_length` cuts them: {three[0][:80]!r}. Raise `max_length`."
            )


def _of(triple: Triple) -> tuple[str, str, str]:
    return triple.query, triple.positive, triple.negative


def plot_future(found: Mapping[str, Future], triples: int) -> Figure:
    """Two panels by layer: how often the positive is nearer, and the margin.

    Args:
        found: of each encoder, by its name, what `future_use` gives.
        triples: their number.
    """
    figure, (left, right) = panels(1, 2, width=5.2, height=3.9)
    lines_by_layer(left, {name: row["accuracy"] for name, row in found.items()})
    error = 0.5 / triples**0.5
    left.axhspan(0.5 - error, 0.5 + error, color="0.9", label="chance ± standard error")
    left.set(ylabel="share of triples", ylim=(0, 1))
    left.set_title("Positive nearer than negative", fontsize=10)
    legend_below(figure, left)
    lines_by_layer(right, {name: row["margin"] for name, row in found.items()})
    right.axhline(0, color="0.7", lw=0.8)
    right.set(ylabel="difference of cosines")
    right.set_title("cos(query, positive) − cos(query, negative)", fontsize=10)
    for axis in (left, right):
        layer_axis(axis)
    figure.suptitle(f"Only the common beginnings are pooled, {triples} triples", fontsize=11)
    return figure
