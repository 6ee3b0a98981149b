"""Embeddings of many texts, by one process or by all ranks together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llm2vec_pl.decoder import evaluating
from llm2vec_pl.distributed import gather_rows, row_counts, world
from llm2vec_pl.encoder import (
    Encoder,
    MultiVectorEncoder,
    each_instruction,
    padded,
    whole_batch_size,
)

Embed = Callable[[Sequence[str], str], Tensor]


def embedder(encoder: Encoder | MultiVectorEncoder, batch_size: int, on_all_ranks: bool) -> Embed:
    """A function from texts and an instruction to embeddings, (N, D) or (N, L, D), on the CPU.

    Args:
        encoder: embeds the texts.
        batch_size: number of texts that go through the decoder at once.
        on_all_ranks: divide the texts among all ranks. Every rank must then pass the same texts.
    """

    def embed(texts: Sequence[str], instruction: str) -> Tensor:
        if isinstance(encoder, MultiVectorEncoder):
            return _vectors(encoder, texts, instruction, batch_size, on_all_ranks)
        if on_all_ranks:
            return encode_on_all_ranks(encoder, texts, instruction, batch_size)
        embeddings: Tensor = encoder.encode(list(texts), instruction, batch_size)
        return embeddings

    return embed


@torch.no_grad()
def encode_on_all_ranks(
    encoder: Encoder,
    texts: Sequence[str],
    instruction: str | Sequence[str] = "",
    batch_size: int = 32,
) -> Tensor:
    """`Encoder.encode`, with the texts divided among the ranks; each rank gets all embeddings.

    All ranks make the same number of passes through the decoder, whatever the texts: under FSDP a
    pass is a collective operation, and a rank with an extra pass would wait for ever.

    Args:
        encoder: the same on all ranks; it may be sharded.
        texts: N texts, the same on all ranks.
        instruction: written directly before each text, and not pooled; or one for each text.
        batch_size: number of texts that go through the decoder at once on each rank.

    Returns:
        (N, D) in float32 on the CPU, in the order of the texts, not normalised.
    """
    rank, ranks = world()
    if ranks == 1:
        embeddings: Tensor = encoder.encode(list(texts), instruction, batch_size)
        return embeddings
    instructions = each_instruction(instruction, len(texts))
    batch_size = whole_batch_size(batch_size)
    encoder.load()
    device = next(encoder.parameters()).device
    # Texts of similar length in the same pass, on all ranks: little padding, little waiting.
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
    passes = []
    with evaluating(encoder):
        for start in range(0, len(order), batch_size * ranks):
            shared = order[start : start + batch_size * ranks]
            own = _share(shared, rank, ranks)
            batch = encoder.tokenize([texts[i] for i in own], [instructions[i] for i in own])
            embedded = encoder({key: value.to(device) for key, value in batch.items()})
            gathered = gather_rows(embedded.float(), [len(own)] * ranks)  # rank after rank
            dealt = gathered.unflatten(0, (ranks, len(own))).transpose(0, 1).flatten(0, 1)
            passes.append(dealt[: len(shared)].cpu())
    embeddings = torch.empty(len(texts), encoder.embedding_size, dtype=torch.float32)
    if passes:
        embeddings[order] = torch.cat(passes)
    return embeddings


@torch.no_grad()
def _vectors(
    encoder: MultiVectorEncoder,
    texts: Sequence[str],
    instruction: str,
    batch_size: int,
    on_all_ranks: bool,
) -> Tensor:
    """The vectors of all tokens, (N, L, D), on the CPU, in the order of the texts."""
    rank, ranks = world() if on_all_ranks else (0, 1)
    if ranks == 1:
        return padded(encoder.encode(texts, instruction, batch_size))
    own = _share(list(range(len(texts))), rank, ranks)
    vectors = padded(encoder.encode([texts[i] for i in own], instruction, batch_size))
    longest = max(tokens for (tokens,) in row_counts(vectors.transpose(0, 1)))
    vectors = F.pad(vectors, (0, 0, 0, longest - vectors.shape[1]))
    device = next(encoder.parameters()).device
    gathered = gather_rows(vectors.to(device), [len(own)] * ranks).cpu()  # rank after rank
    dealt: Tensor = gathered.unflatten(0, (ranks, len(own))).transpose(0, 1).flatten(0, 1)
    return dealt[: len(texts)]


def _share(texts: list[int], rank: int, ranks: int) -> list[int]:
    """Every `ranks`-th text, and the last text again if other ranks have one more."""
    own = texts[rank::ranks]
    return own + texts[-1:] * (math.ceil(len(texts) / ranks) - len(own))
