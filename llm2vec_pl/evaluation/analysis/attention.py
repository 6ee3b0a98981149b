"""How much attention goes to later tokens, by layer.

A causal decoder gives them none. Step 1 opens them to view without training, and MNTP teaches the
decoder what to do with them: what it has learnt to look at is seen here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm2vec_pl.decoder import evaluating
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.analysis.figures import (
    layer_axis,
    legend_below,
    lines_by_layer,
    panels,
)
from llm2vec_pl.evaluation.analysis.states import batches

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = ("first", "earlier", "itself", "later")
Attention = dict[str, list[float]]


def attention_parts(weights: Tensor) -> Tensor:
    """Where attention goes: to the first token, to others before, to the token itself, to later.

    The first token is apart, as decoders park on it what they have no use for (Xiao et al. 2023,
    "attention sinks"). For the first token itself, its own weight counts as `itself`.

    Args:
        weights: attention weights, (..., L, L): row the token that looks, column what it looks at.

    Returns:
        The mean over all but the last two dimensions and over tokens, for each of `PARTS`, (4,).

    >>> attention_parts(torch.full((4, 4), 1 / 4))[3].item()  # (L - 1) / (2 L)
    0.375
    """
    length = weights.shape[-1]
    whole = weights.float().flatten(0, -3).mean(dim=0) if weights.dim() > 2 else weights.float()
    later, itself = whole.triu(1).sum(), whole.diagonal().sum()
    first = whole[1:, 0].sum()
    parts = torch.stack([first, whole.tril(-1).sum() - first, itself, later])
    return (parts / length).cpu()


def uniform_share(length: int) -> float:
    """The share of later tokens if each token attended to all alike: (L - 1) / (2 L)."""
    return (length - 1) / (2 * length)


def attention_use(encoder: Encoder, input_ids: Tensor, batch_size: int = 4) -> Attention:
    """The shares of attention in each layer, over heads, tokens and texts.

    The weights of all layers of a batch are in memory at once: K x H x B x L x L numbers for K
    layers of H heads, such as 18 MB for SmolLM2-135M, four texts and 64 tokens.

    Args:
        encoder: opened with `attention="eager"`; others do not give their weights.
        input_ids: (N, L), as `token_rows` gives them.
        batch_size: number of rows that go through the decoder at once.

    Returns:
        For each of `PARTS` a list of numbers, one for each layer that attends, in order; a layer's
        four add up to 1, or to less where a layer has a sink without a token.

    Raises:
        UserError: if the encoder does not give its attention weights.
    """
    encoder.load()
    device = next(encoder.parameters()).device
    totals: list[Tensor] = []
    for rows in batches(range(len(input_ids)), batch_size):
        ids = input_ids[list(rows)].to(device)
        with torch.no_grad(), evaluating(encoder):
            output = encoder.decoder(input_ids=ids, use_cache=False, output_attentions=True)
        parts = [attention_parts(layer) * len(rows) for layer in _weights(encoder, output)]
        totals = [a + b for a, b in zip(totals, parts, strict=True)] if totals else parts
    shares = torch.stack(totals) / len(input_ids)  # (K, 4)
    return {name: column.tolist() for name, column in zip(PARTS, shares.T, strict=True)}


def _weights(encoder: Encoder, output: Any) -> list[Tensor]:
    weights = [layer for layer in output.attentions or () if layer is not None]
    if not weights:
        raise UserError(
            f"{encoder.source.name} gives no attention weights. Open it with "
            '`attention="eager"`; a decoder without attention has none.'
        )
    return weights


def plot_attention(found: Mapping[str, Attention], length: int) -> Figure:
    """Two panels by layer: the share of later tokens, and that of the first token.

    Args:
        found: of each encoder, by its name, what `attention_use` gives.
        length: number of tokens in each text.
    """
    figure, (left, right) = panels(1, 2, width=5.2, height=3.9)
    for axis, part, title in (
        (left, "later", "Attention to later tokens"),
        (right, "first", "Attention to the first token"),
    ):
        lines_by_layer(axis, {name: row[part] for name, row in found.items()})
        axis.set(ylabel="share of the attention weight", ylim=(-0.02, 1))
        axis.set_title(title, fontsize=10)
        layer_axis(axis, first=1)
    uniform = uniform_share(length)
    left.axhline(uniform, color="0.5", ls=":", label=f"uniform attention, {uniform:.2f}")
    legend_below(figure, left)
    figure.suptitle(f"Mean over heads, tokens and texts of {length} tokens", fontsize=11)
    return figure
