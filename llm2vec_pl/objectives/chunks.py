"""The embeddings of many texts, with the activations of a few at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from llm2vec_pl.distributed import row_counts
from llm2vec_pl.encoder import TokenBatch, send, take, text_lengths
from llm2vec_pl.errors import UserError

EMBEDDED = (
    "input_ids",
    "attention_mask",
    "pooling_mask",
    "text_lengths",
)  # what an embedding needs


def embed_rows(
    embed: Callable[[TokenBatch], Tensor], batch: TokenBatch, chunk_size: int | None
) -> Tensor:
    """The embeddings of a token batch, (B, D), with the activations of one chunk at a time.

    The backward pass computes a chunk's activations again. Ranks with fewer rows run as many passes
    as the others: under FSDP each pass gathers the weights from all ranks.

    Args:
        embed: embeds a token batch.
        batch: `EMBEDDED`, B rows each, padded on the right.
        chunk_size: the most texts in a chunk; None for all at once.
    """
    if chunk_size is None:
        return embed(batch)
    lengths = text_lengths(batch["attention_mask"], batch.get("text_lengths"))
    most = max(count for (count,) in row_counts(lengths))
    passes = math.ceil(most / chunk_size)
    # Texts of similar length together: less padding.
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    chosen = order + order[-1:] * (passes - len(order))
    embeddings = []
    for some in np.array_split(chosen, passes):
        rows = some.tolist()
        chunk = take(batch, rows, lengths[rows[0]])
        embeddings.append(checkpoint(embed, chunk, use_reentrant=False))
    places = send(np.argsort(order).tolist(), batch["attention_mask"].device)
    return cat_rows(embeddings)[places]


def cat_rows(parts: Sequence[Tensor]) -> Tensor:
    """Rows one after another; those of L tokens, (B, L, D), get zeros up to the longest."""
    if parts[0].dim() < 3:
        return torch.cat(list(parts))
    longest = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])


def require_chunk_size(chunk_size: int | None) -> None:
    """Checks the argument `chunk_size`.

    Raises:
        UserError: if it is below 1.
    """
    if chunk_size is not None and chunk_size < 1:
        raise UserError(
            f"`chunk_size` is at least 1 text, but got {chunk_size}. For all texts at "
            "once, set `chunk_size=None`."
        )
