"""Which texts become hard negatives.

The rules are those of sentence-transformers' `mine_hard_negatives`, which follow NV-Retriever
(Moreira et al. 2024, arXiv 2407.15831).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from llm2vec_pl.errors import UserError

Sampling = Literal["top", "random"]


@dataclass(frozen=True)
class Rules:
    """Which texts become a query's negatives. Scores are cosine similarities.

    Of all texts except the query's own positives, only the `range_max` nearest are considered.
    Those whose score breaks a rule are left out, then the `range_min` nearest of the rest. Up to
    `num_negatives` of the remaining ones are taken. With several positives, the margins apply to
    the lowest score.

    Args:
        num_negatives: the most negatives per query.
        range_min: number of nearest candidates to skip; they may be unlabelled positives.
        range_max: number of nearest candidates to consider. Null: as many as needed, or
            `range_min` plus ten times `num_negatives` if a rule on scores or a draw selects from
            them.
        min_score: candidates with a lower score are left out as too easy.
        max_score: candidates with a higher score are left out as likely positives.
        absolute_margin: a negative's score is at most the positive's minus this.
        relative_margin: a negative's score is below the positive's by at least this share of it;
            0.05 in NV-Retriever.
        sampling: take the nearest of the remaining candidates ("top"), or draw from them
            ("random").
        seed: seed of the draw, which is a function of seed and query.

    Raises:
        UserError: if the numbers leave no candidate.
    """

    num_negatives: int = 3
    range_min: int = 0
    range_max: int | None = None
    min_score: float | None = None
    max_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    sampling: Sampling = "top"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_negatives < 1 or self.range_min < 0:
            raise UserError(
                f"`num_negatives` is at least 1 and `range_min` at least 0, but got "
                f"{self.num_negatives} and {self.range_min}."
            )
        if self.depth < self.range_min + self.num_negatives:
            raise UserError(
                f"`range_max={self.depth}` leaves fewer than {self.num_negatives} candidates after "
                f"`range_min={self.range_min}`. Raise it to {self.range_min + self.num_negatives}."
            )
        if None not in (low := self.min_score, high := self.max_score) and low > high:  # type: ignore[operator]
            raise UserError(
                f"`min_score={low}` is above `max_score={high}`. Lower the one or raise the other."
            )

    @property
    def depth(self) -> int:
        """How many of the nearest candidates are considered."""
        if self.range_max is not None:
            return self.range_max
        limits = (self.min_score, self.max_score, self.absolute_margin, self.relative_margin)
        chooses = self.sampling == "random" or any(limit is not None for limit in limits)
        return self.range_min + self.num_negatives * (10 if chooses else 1)

    def broken(self, scores: Tensor, positive: Tensor) -> dict[str, Tensor]:
        """Rule -> which candidates break it.

        Args:
            scores: of the candidates, (Q, K).
            positive: the lowest score of each query's positives, (Q,).
        """
        positive = positive.unsqueeze(1)  # (Q, 1)
        broken = {}
        if self.absolute_margin is not None:
            broken["absolute_margin"] = scores + self.absolute_margin > positive
        if self.relative_margin is not None:
            # The magnitude: a positive below 0 has its threshold below it too.
            broken["relative_margin"] = scores > positive - positive.abs() * self.relative_margin
        if self.max_score is not None:
            broken["max_score"] = scores > self.max_score
        if self.min_score is not None:
            broken["min_score"] = scores < self.min_score
        return broken
