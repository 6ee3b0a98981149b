"""Graded pairs: pairs that people find more similar shall score higher."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llm2vec_pl.distributed import gather_rows, row_counts
from llm2vec_pl.encoder import Encoder, TokenBatch, join
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives.base import Objective, Schedule
from llm2vec_pl.objectives.chunks import EMBEDDED, embed_rows, require_chunk_size
from llm2vec_pl.objectives.distillation_losses import correlation


class CoSENT(Objective):
    """Pairs of texts with scores: cosines shall order them as the scores do (Su 2022).

    Every two pairs of a batch, of all ranks, whose scores differ are compared. Only the order of
    the scores counts, not their scale.

    Args:
        encoder: the encoder to train.
        temperature: divides the cosine similarities.
        chunk_size: number of texts whose activations exist at once. The backward pass computes them
            again: the same gradient, the memory of one chunk, a third more time. Null: all texts.
        learning_rate: the highest learning rate, reached after warm-up.
        warmup_steps: optimizer steps of linear warm-up; below 1, a share of all steps.
        schedule: how the learning rate falls after warm-up.
        weight_decay: AdamW's weight decay.

    Raises:
        UserError: if an argument is out of range.
    """

    weights: tuple[float, ...] = (1.0,)
    """Of the loss on each measure of similarity."""

    def __init__(
        self,
        encoder: Encoder,
        temperature: float = 0.05,
        chunk_size: int | None = None,
        learning_rate: float = 5e-5,
        warmup_steps: float = 0.1,
        schedule: Schedule = "linear",
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(encoder, learning_rate, warmup_steps, schedule, weight_decay)
        if not temperature > 0.0:
            raise UserError(f"`temperature` is above 0, but got {temperature}.")
        require_chunk_size(chunk_size)
        self.temperature = temperature
        self.chunk_size = chunk_size

    def loss(self, batch: dict[str, TokenBatch]) -> Tensor:
        """The ranking loss over the pairs of all ranks, the same on each of them.

        Args:
            batch: the token batches `query` and `positive`, B rows each; the latter has `score`,
                (B,).

        Raises:
            UserError: if the pairs have no scores.
        """
        first, second = self.embed(batch)
        scores = batch["positive"]["score"]
        counts = [count for (count,) in row_counts(scores)]
        # Gathered as similarities, a number or two for each pair. Each rank computes the whole
        # loss: `gather_rows` adds up what the mean over ranks divides.
        measures = torch.stack(self.similarities(first, second), dim=-1)  # (B, M)
        measures, scores = gather_rows(measures, counts), gather_rows(scores, counts)
        losses = [cosent(each, scores, self.temperature) for each in measures.unbind(dim=-1)]
        if self._trainer is not None:
            everything = torch.ones_like(scores, dtype=torch.bool)
            agreement = correlation(measures[:, 0].detach(), scores, everything)
            self.log_mean("correlation", agreement, len(first))
        weighted = [weight * loss for weight, loss in zip(self.weights, losses, strict=True)]
        return torch.stack(weighted).sum()

    def similarities(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """M measures of similarity, (B,) each, of embeddings, (B, D) each; the cosine first."""
        return [cosine(first, second)]

    def embed(self, batch: dict[str, TokenBatch]) -> tuple[Tensor, Tensor]:
        """The embeddings of the first and the second texts, (B, D) each, in one pass."""
        parts = [batch["query"], batch["positive"]]
        if "score" not in parts[1]:
            raise UserError(
                f"{type(self).__name__} learns from pairs with scores, but this data has none. "
                "Use `--data GradedPairs`, or give the `positive` part of a batch of your own the "
                "key `score`."
            )
        tokens = join([{key: part[key] for key in EMBEDDED if key in part} for part in parts])
        first, second = embed_rows(self, tokens, self.chunk_size).chunk(2)
        return first, second


class AnglE(CoSENT):
    """CoSENT's loss on the angle between embeddings read as complex numbers (Li and Li 2023).

    Where a cosine is close to 1 it hardly changes, and so has hardly a gradient; the angle has. As
    in the paper, the cosine has a loss too. The paper's third loss, with in-batch negatives, is
    left out.

    Args:
        encoder: the encoder to train.
        cosine_weight: weight of the cosine's loss beside the angle's; 0 leaves it out, as in
            sentence-transformers' AnglELoss.
        options: CoSENT's arguments.

    Raises:
        UserError: if an argument is out of range.
    """

    def __init__(self, encoder: Encoder, cosine_weight: float = 1.0, **options: Any) -> None:
        super().__init__(encoder, **options)
        if cosine_weight < 0:
            raise UserError(f"`cosine_weight` is at least 0, but got {cosine_weight}.")
        self.weights = (cosine_weight, 1.0)

    def similarities(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """Cosines and angles, (B,) each, of embeddings, (B, D) each."""
        return [cosine(first, second), angle(first, second)]


def cosent(similarities: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """log(1 + the sum of exp((s_i - s_j) / temperature) over pairs i scored below pairs j).

    Args:
        similarities: s, (B,).
        scores: what people say, (B,), on any scale.
        temperature: the number that similarities are divided by.

    Returns:
        A scalar in float32; 0 if all scores are equal.

    >>> cosent(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 5.0]), 0.05).item()  # log(1 + 1)
    0.6931471824645996
    """
    similarities = similarities.float() / temperature
    wrong = similarities[:, None] - similarities[None, :]  # (B, B)
    wrong = wrong.masked_fill(scores[:, None] >= scores[None, :], -torch.inf)
    return torch.cat([wrong.new_zeros(1), wrong.flatten()]).logsumexp(dim=0)


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine similarity of each pair of embeddings, (B, D) each -> (B,), in float32."""
    return F.cosine_similarity(first.float(), second.float(), dim=-1)


def angle(first: Tensor, second: Tensor) -> Tensor:
    """|cos + sin| of the angle between embeddings read as complex numbers, in float32.

    The first half of an embedding is the real part, the second half the imaginary part; an odd
    last dimension is paired with 0. It is the similarity of sentence-transformers' AnglELoss and of
    the authors' code, the absolute sum of real and imaginary part of the normalised quotient.

    Args:
        first: (B, D).
        second: (B, D).

    Returns:
        (B,)
    """
    if first.shape[-1] % 2:
        first, second = F.pad(first, (0, 1)), F.pad(second, (0, 1))
    a, b = (F.normalize(each.float(), dim=-1).chunk(2, dim=-1) for each in (first, second))
    real = (a[0] * b[0] + a[1] * b[1]).sum(dim=-1)
    imaginary = (a[1] * b[0] - a[0] * b[1]).sum(dim=-1)
    return (real + imaginary).abs()
