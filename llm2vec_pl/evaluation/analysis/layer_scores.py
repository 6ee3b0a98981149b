"""STS and retrieval by layer and by pooling: where in the decoder the best embedding is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from llm2vec_pl.data import RetrievalTask
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.evaluation import STSTask, search, spearman
from llm2vec_pl.evaluation.analysis.figures import (
    layer_axis,
    legend_below,
    lines_by_layer,
    panels,
)
from llm2vec_pl.evaluation.analysis.states import layer_embeddings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POOLINGS = ("mean", "weighted_mean", "last", "first")
Scores = dict[str, dict[str, list[float]]]


def scores_by_layer(
    encoder: Encoder,
    sts: STSTask | None = None,
    retrieval: RetrievalTask | None = None,
    poolings: Sequence[str] = POOLINGS,
    batch_size: int = 16,
) -> Scores:
    """How well each layer's embeddings do, for each pooling.

    Args:
        encoder: with a decoder of K layers.
        sts: pairs of sentences with scores.
        retrieval: queries and documents.
        poolings: of the hidden states.
        batch_size: number of texts that go through the decoder at once.

    Returns:
        For each task, by its name, and each pooling K + 1 numbers, one for each layer, that of the
        token embeddings first: Spearman's correlation for STS, nDCG@10 for retrieval.
    """
    scores: Scores = {}
    if sts is not None:
        texts = list(dict.fromkeys([*sts.first, *sts.second]))
        rows = {text: i for i, text in enumerate(texts)}
        first, second = ([rows[text] for text in side] for side in (sts.first, sts.second))
        gold = torch.tensor(sts.scores, dtype=torch.float64)
        scores[sts.name] = {
            pooling: [
                spearman(F.cosine_similarity(layer[first], layer[second]), gold).item()
                for layer in layers
            ]
            for pooling, layers in layer_embeddings(encoder, texts, poolings, batch_size).items()
        }
    if retrieval is not None:
        sides = (list(retrieval.queries.values()), list(retrieval.corpus.values()))
        queries, documents = (layer_embeddings(encoder, s, poolings, batch_size) for s in sides)
        scores[retrieval.name] = {
            pooling: [
                search(retrieval, q, [d])["ndcg@10"]
                for q, d in zip(queries[pooling], documents[pooling], strict=True)
            ]
            for pooling in poolings
        }
    return scores


def plot_scores(found: Mapping[str, Scores], labels: Mapping[str, str]) -> Figure:
    """A row of panels for each task, a panel for each encoder, a line for each pooling.

    Args:
        found: of each encoder, by its name, what `scores_by_layer` gives.
        labels: the metric of each task, to stand beside its panels.
    """
    tasks = list(dict.fromkeys(task for scores in found.values() for task in scores))
    figure, axes = panels(
        len(tasks), len(found), width=3.4, height=3.0, squeeze=False, sharex=True, sharey="row"
    )
    for row, task in zip(axes, tasks, strict=True):
        for axis, (name, scores) in zip(row, found.items(), strict=True):
            lines_by_layer(axis, scores[task])
            axis.set_title(name, fontsize=10)
            layer_axis(axis)
        row[0].set_ylabel(f"{task}: {labels[task]}")
    legend_below(figure, axes[0, 0], title="pooling")
    return figure
