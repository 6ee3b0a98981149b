"""A chunk of documents -> its embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from llm2vec_pl.encoder import (
    DOCUMENT,
    Encoder,
    chosen_prompt,
    first_of,
    require_output,
    whole_batch_size,
)
from llm2vec_pl.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Precision = Literal["float32", "float16"]

BATCHES_AT_ONCE = 16
"""Batches between two looks at whether to stop: as many as `Encoder.encode` sorts together."""


@dataclass(frozen=True)
class Embedding:
    """How texts become the embeddings that are kept.

    Args:
        prompt: written right before each text, and not pooled. By default the encoder's prompt
            for documents, if it has one; "" for none.
        prompt_name: the prompt is the one that the encoder knows by this name.
        normalize: to length 1, so that their products are cosines.
        truncate_dim: keep the first numbers only, so many, of an encoder that was trained for it.
        precision: float16 takes half the space.
        batch_size: most texts that go through the decoder at once; fewer on a CPU if they are long.
    """

    prompt: str | None = None
    prompt_name: str | None = None
    normalize: bool = False
    truncate_dim: int | None = None
    precision: Precision = "float32"
    batch_size: int = 32

    def by(self, encoder: Encoder) -> Embedding:
        """The same with the prompt itself, as this encoder knows it.

        Raises:
            UserError: if the encoder lacks the prompt, or has smaller embeddings.
        """
        whole_batch_size(self.batch_size)
        require_output(encoder.embedding_size, 0, "float32", self.truncate_dim)
        name = self.prompt_name
        if name is None and self.prompt is None:
            name = first_of(DOCUMENT, encoder.prompts)
        prompt = chosen_prompt(encoder.prompts, "", self.prompt, name)
        return replace(self, prompt=str(prompt), prompt_name=None)


def embed(
    encoder: Encoder, texts: Sequence[str], how: Embedding, after: Callable[[int], object]
) -> np.ndarray:
    """The embeddings of texts, in their order.

    Args:
        encoder: embeds the texts.
        texts: N texts.
        how: what becomes of their embeddings.
        after: called after every few batches with their number of texts; it may raise.

    Returns:
        (N, D) in `how.precision`.

    Raises:
        UserError: if an embedding is not finite.
    """
    how = how.by(encoder)
    size = how.truncate_dim or encoder.embedding_size
    kept = torch.empty(len(texts), size, dtype=getattr(torch, how.precision))
    for places in _by_length(texts, BATCHES_AT_ONCE * how.batch_size):
        kept[places] = encoder.encode(
            [texts[i] for i in places],
            prompt=how.prompt,
            batch_size=how.batch_size,
            normalize_embeddings=how.normalize,
            truncate_dim=how.truncate_dim,
        ).to(kept.dtype)
        if not kept[places].isfinite().all():
            raise UserError(
                "The encoder gives embeddings that are not finite. Use another encoder, "
                '`dtype="float32"`, or, if they are too large for float16, `precision="float32"`.'
            )
        after(len(places))
    return kept.numpy()


def _by_length(texts: Sequence[str], count: int) -> Iterator[list[int]]:
    """The places of so many texts of similar length at a time, the longest first."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
    for start in range(0, len(order), count):
        yield order[start : start + count]
