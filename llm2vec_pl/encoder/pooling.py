"""Hidden states -> one embedding per text, over the tokens that `pooling_mask` marks."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Pooling = Literal["mean", "weighted_mean", "last", "first"]


def pool(hidden_states: Tensor, pooling_mask: Tensor, pooling: Pooling = "mean") -> Tensor:
    """One vector per text from the states of its marked tokens (LLM2Vec, section 2.1).

    `mean` averages them, `weighted_mean` does so with weights 1, 2, 3, … in reading order (SGPT,
    Muennighoff 2022), which suits a causal decoder, `last` and `first` take one of them. Only the
    mask counts, so padding may be on either side.

    Args:
        hidden_states: states of the decoder's last layer, (B, L, D).
        pooling_mask: 1 on the tokens to pool, 0 elsewhere, (B, L); at least one per row.
        pooling: how.

    Returns:
        Embeddings in float32, not normalised, (B, D).

    Raises:
        ValueError: for an unknown `pooling`.

    >>> states = torch.tensor([[[1.0], [3.0], [8.0]]])
    >>> pool(states, torch.tensor([[1, 1, 0]])).item()
    2.0
    """
    weights = _weights(pooling_mask, pooling)  # (B, L)
    # A product with 0 would turn a NaN in the padding into a NaN in the embedding.
    states = hidden_states.float().masked_fill(weights.unsqueeze(-1) == 0, 0.0)
    return torch.einsum("bl,bld->bd", weights, states)  # (B, D)


def pool_packed(
    hidden_states: Tensor, index: Tensor, pooling_mask: Tensor, pooling: Pooling = "mean"
) -> Tensor:
    """The same as `pool`, from the states of real tokens alone, laid end to end in any order.

    Args:
        hidden_states: states of the decoder's last layer, (T, D).
        index: the place of each of them in the flattened batch (B * L,), (T,).
        pooling_mask: 1 on the tokens to pool, 0 elsewhere, (B, L); at least one per row.
        pooling: how.

    Returns:
        Embeddings in float32, not normalised, (B, D).

    Raises:
        ValueError: for an unknown `pooling`.

    >>> states = torch.tensor([[8.0], [1.0], [3.0]])
    >>> pool_packed(states, torch.tensor([3, 0, 1]), torch.tensor([[1, 1, 0], [1, 0, 0]])).tolist()
    [[2.0], [8.0]]
    """
    texts, length = pooling_mask.shape
    weights = _weights(pooling_mask, pooling).flatten()[index].unsqueeze(-1)  # (T, 1)
    states = hidden_states.float()
    embeddings = states.new_zeros(texts, states.shape[-1])
    return embeddings.index_add(0, index // length, weights * states)  # (B, D)


def _weights(pooling_mask: Tensor, pooling: Pooling) -> Tensor:
    """The share of each token in its text's embedding, (B, L)."""
    if pooling not in get_args(Pooling):
        raise ValueError(
            f"`pooling` is one of {', '.join(get_args(Pooling))}, but got {pooling!r}."
        )
    weights = _unscaled(pooling_mask.float(), pooling)
    return weights / weights.sum(dim=1, keepdim=True)


def _unscaled(mask: Tensor, pooling: Pooling) -> Tensor:
    rank = mask.cumsum(dim=1) * mask  # (B, L): 1, 2, 3, … on the marked tokens, 0 elsewhere
    if pooling == "mean":
        return mask
    if pooling == "weighted_mean":
        return rank
    target = rank.amax(dim=1, keepdim=True) if pooling == "last" else torch.ones_like(rank[:, :1])
    return (rank == target).float()
