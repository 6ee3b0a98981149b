"""How well predicted tags agree with the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from llm2vec_pl.errors import UserError

OUTSIDE = "O"
Tags = Sequence[str | None]
"""The tags of a sentence; None for a word that has no prediction, because it has no token."""


class WordScores(Metric):
    """Accuracy of tags; of spans in IOB2 also precision, recall and F1, all added up over ranks.

    - `accuracy`: the share of words with the right tag; a word without a prediction is wrong.
    - `micro_precision`: the same without those words. Llm2vec 0.2.3 prints it as precision, and
      the paper's table of word-level tasks shows it, for spans too: a word has one prediction, so
      that the micro-averaged precision is the share of right ones, O among them.
    - `f1`, `precision`, `recall`: of whole spans, as seqeval counts them in its strict mode: right
      are those with the same words and type; a span begins with B.
    - `loss`: the mean over words with a prediction and a known tag.

    Args:
        has_spans: whether the tags mark spans.

    Raises:
        UserError: if seqeval, which spans need, is not installed.
    """

    full_state_update = False
    words: Tensor
    predicted_words: Tensor
    right_words: Tensor
    spans: Tensor
    predicted_spans: Tensor
    right_spans: Tensor
    losses: Tensor
    loss_words: Tensor

    def __init__(self, has_spans: bool) -> None:
        super().__init__()
        self.has_spans = has_spans
        if has_spans:
            require_seqeval()
        for name in ("words", "predicted_words", "right_words", "loss_words"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        for name in ("spans", "predicted_spans", "right_spans"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("losses", torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")

    @staticmethod
    def score_of(has_spans: bool) -> str:
        """The name of the score that decides."""
        return "f1" if has_spans else "accuracy"

    def update(
        self, predicted: Sequence[Tags], true: Sequence[Sequence[str]], losses: Tensor
    ) -> None:
        """Counts sentences.

        Args:
            predicted: the tags of each sentence; None for a word without a prediction.
            true: as many tags.
            losses: those of words with a prediction and a known tag, (K,).
        """
        pairs = [
            pair for p, t in zip(predicted, true, strict=True) for pair in zip(p, t, strict=True)
        ]
        self.words += len(pairs)
        self.predicted_words += sum(tag is not None for tag, _ in pairs)
        self.right_words += sum(tag == expected for tag, expected in pairs)
        self.losses += losses.sum()
        self.loss_words += len(losses)
        if self.has_spans:
            found = spans_of([[tag or OUTSIDE for tag in tags] for tags in predicted])
            expected = spans_of(true)
            self.spans += len(expected)
            self.predicted_spans += len(found)
            self.right_spans += len(expected & found)

    def compute(self) -> dict[str, Tensor]:
        """All scores, in [0, 1], and the loss."""
        scores = {
            "loss": _share(self.losses, self.loss_words),
            "accuracy": _share(self.right_words, self.words),
            "micro_precision": _share(self.right_words, self.predicted_words),
        }
        if self.has_spans:
            scores |= {
                "f1": _share(2 * self.right_spans, self.spans + self.predicted_spans),
                "precision": _share(self.right_spans, self.predicted_spans),
                "recall": _share(self.right_spans, self.spans),
            }
        return scores


def spans_of(sentences: Sequence[Sequence[str]]) -> set[tuple[int, int, int, str]]:
    """The spans of tags in IOB2, each as sentence, first word, end and type.

    >>> sorted(spans_of([["B-PER", "I-PER", "O", "I-LOC"]]))  # a span begins with B
    [(0, 0, 2, 'PER')]
    """
    from seqeval.scheme import IOB2, Entities

    found: Any = Entities([list(tags) for tags in sentences], scheme=IOB2)
    return {
        (row, entity.start, entity.end, entity.tag)
        for row, entities in enumerate(found.entities)
        for entity in entities
    }


def require_seqeval() -> None:
    """Raises a `UserError` if seqeval is not installed."""
    try:
        import seqeval.scheme  # noqa: F401
    except ImportError as error:
        raise UserError(
            "To measure chunks and named entities needs seqeval. Run "
            '`pip install "llm2vec_pl[words]"`, or `pip install seqeval`.'
        ) from error


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return part.float() / whole.clamp(min=1)
