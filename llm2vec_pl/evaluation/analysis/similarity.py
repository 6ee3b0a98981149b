"""Cosine of the hidden states of two encoders of one decoder, by layer and by position.

LLM2Vec, section 4.2 and figure 5: with bidirectional attention but no training, the states of
Mistral-7B stay close to its causal ones at all layers and positions, those of the LLaMAs do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.analysis.figures import HEAT, panels
from llm2vec_pl.evaluation.analysis.states import batches, layer_states

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def states_of(encoder: Encoder, input_ids: Tensor, batch_size: int = 8) -> Tensor:
    """The hidden states of rows without padding.

    Args:
        encoder: with a decoder of K layers.
        input_ids: (N, L), as `token_rows` gives them.
        batch_size: number of rows that go through the decoder at once.

    Returns:
        (K + 1, N, L, D) on the CPU, in the dtype of the computation: layers as in `layer_states`.
    """
    parts = []
    for rows in batches(range(len(input_ids)), batch_size):
        ids = input_ids[list(rows)]
        states = layer_states(encoder, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        parts.append(torch.stack([layer.cpu() for layer in states]))
    return torch.cat(parts, dim=1)


def state_similarity(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """The cosine of the same token's states in two encoders, by layer and position.

    Hidden states of a decoder often share a large common part, so that any two have a high cosine.
    `chance` is therefore the same cosine with the state of another text at the same position: only
    what is above it says that a token has kept its state.

    Args:
        first: states of N texts, (K + 1, N, L, D), at least two.
        second: those of the same tokens in another encoder.

    Returns:
        `cosine`, the mean over texts, (K + 1, L); and `chance`, the mean over texts and positions,
        (K + 1,).

    Raises:
        UserError: if the two have other shapes: they are not from one decoder.
    """
    if first.shape != second.shape or first.shape[1] < 2:
        raise UserError(
            "Only encoders of the same decoder can be compared, on at least two texts: expected "
            "states of the same shape (layers + 1, texts, tokens, size), but got "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
    cosine = [_cosine(a, b).mean(dim=0) for a, b in zip(first, second, strict=True)]
    others = [_cosine(a, b.roll(1, 0)).mean() for a, b in zip(first, second, strict=True)]
    return {"cosine": torch.stack(cosine), "chance": torch.stack(others)}


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    return F.cosine_similarity(first.float(), second.float(), dim=-1)


def plot_similarity(
    found: Mapping[str, Mapping[str, Tensor]], reference: str, texts: int
) -> Figure:
    """A heat map for each encoder, position from left to right and layer from bottom to top.

    Args:
        found: of each encoder, by its name, what `state_similarity` gives.
        reference: the name of the encoder that they were compared with.
        texts: number of texts.
    """
    figure, axes = panels(1, len(found), width=4.2, height=3.8, squeeze=False, sharey=True)
    for axis, (name, result) in zip(axes[0], found.items(), strict=True):
        cosine = result["cosine"]
        image = axis.imshow(
            cosine,
            cmap=HEAT,
            vmin=0,
            vmax=1,
            origin="lower",
            aspect="auto",
            interpolation="nearest",
        )
        axis.set_title(f"{name}, mean {cosine.mean():.2f}", fontsize=10)
        axis.set_xlabel("position (token)")
        axis.yaxis.get_major_locator().set_params(integer=True)
    axes[0][0].set_ylabel("layer (0: token embeddings)")
    bar = figure.colorbar(image, ax=axes, extend="min")
    bar.set_label(f"cosine with the {reference} state,\nmean over {texts} texts")
    return figure
