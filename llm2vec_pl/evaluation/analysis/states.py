"""The hidden states of every layer, and texts as embeddings of every layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llm2vec_pl.decoder import evaluating
from llm2vec_pl.encoder import Encoder, TokenBatch, pool
from llm2vec_pl.errors import UserError


def layer_states(encoder: Encoder, batch: TokenBatch) -> tuple[Tensor, ...]:
    """`Encoder.layer_states`, without gradient and dropout.

    The last of them are those after the decoder's final normalisation, as `Encoder.hidden_states`
    gives them. All others come from the residual stream and are not normalised. Where a figure
    jumps at the last layer, this may be the reason.

    Args:
        encoder: with a decoder of K layers; it is loaded if it is not.
        batch: `input_ids` and `attention_mask`, each (B, L).

    Returns:
        K + 1 tensors (B, L, D) in the dtype of the computation: the token embeddings, then the
        states after each layer.

    Raises:
        UserError: if the decoder does not give the states of its layers.
    """
    encoder.load()
    device = next(encoder.parameters()).device
    with torch.no_grad(), evaluating(encoder):
        return encoder.layer_states({key: value.to(device) for key, value in batch.items()})


def last_states(encoder: Encoder, batch: TokenBatch) -> tuple[Tensor]:
    """The last of `layer_states` alone, for an encoder that may be sharded, without padding.

    A decoder that FSDP2 has sharded does not give transformers the states of its layers.
    """
    encoder.load()
    device = next(encoder.parameters()).device
    with torch.no_grad(), evaluating(encoder):
        return (encoder.hidden_states({key: value.to(device) for key, value in batch.items()}),)


def layer_embeddings(
    encoder: Encoder, texts: Sequence[str], poolings: Sequence[str], batch_size: int = 16
) -> dict[str, Tensor]:
    """Texts as embeddings of each layer: its states, pooled over the text's own tokens.

    Args:
        encoder: with a decoder of K layers.
        texts: N texts.
        poolings: some of `mean`, `weighted_mean`, `last` and `first`.
        batch_size: number of texts that go through the decoder at once.

    Returns:
        For each pooling (K + 1, N, D) in float32 on the CPU. All of them are in memory at once.
    """
    found: dict[str, list[Tensor]] = {pooling: [] for pooling in poolings}
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
    for rows in batches(order, batch_size):
        batch = encoder.tokenize([texts[i] for i in rows])
        states = layer_states(encoder, batch)
        mask = batch["pooling_mask"].to(states[0].device)
        for pooling in poolings:
            pooled = [pool(layer, mask, pooling).cpu() for layer in states]  # type: ignore[arg-type]
            found[pooling].append(torch.stack(pooled, dim=1))  # (B, K + 1, D)
    places = torch.tensor(order).argsort()
    return {name: torch.cat(parts)[places].transpose(0, 1) for name, parts in found.items()}


def batches(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """The rows in pieces of at most so many."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def token_rows(encoder: Encoder, texts: Sequence[str], length: int, count: int) -> Tensor:
    """The first tokens of the first texts that are long enough, so that nothing is padded.

    Args:
        encoder: whose tokenizer is used, with its special tokens.
        texts: any number of texts.
        length: tokens of each row.
        count: most rows.

    Returns:
        `input_ids`, (N, length).

    Raises:
        UserError: if fewer than two texts are long enough.
    """
    if length > encoder.tokenize.max_length:
        raise UserError(
            f"`length` is the number of tokens of each text, at most the encoder's `max_length`: "
            f"expected at most {encoder.tokenize.max_length}, but got {length}."
        )
    rows: list[Tensor] = []
    for some in batches(range(len(texts)), 64):
        batch = encoder.tokenize([texts[i] for i in some])
        if batch["input_ids"].shape[1] >= length:
            whole = batch["attention_mask"].sum(dim=1) >= length
            rows += batch["input_ids"][whole, :length]
        if len(rows) >= count:
            break
    if len(rows) < 2:
        raise UserError(
            f"Expected at least two texts of {length} tokens, but only {len(rows)} of "
            f"{len(texts)} are as long. Give longer texts, or a smaller `length`."
        )
    return torch.stack(rows[:count])
