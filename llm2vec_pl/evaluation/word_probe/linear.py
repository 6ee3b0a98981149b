"""Training and measuring a probe on hidden states that are kept on disk.

The layer, its loss, its optimizer and its scores are those of `TokenClassification`. Lightning's
Trainer is left out: a step is a few small products, and takes three times as long in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn

from llm2vec_pl.data.words import WordSplit
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.evaluation.word_probe.task import ProbedSplits
from llm2vec_pl.lora import dropped_places
from llm2vec_pl.objectives import TokenClassification

BATCH_SIZE = 8  # sentences, the paper's
MEASURED_AT_ONCE = 64  # sentences

Scores = dict[str, float]


@dataclass(frozen=True)
class Training:
    """How a probe is trained; the defaults are the paper's.

    Args:
        steps: batches of 8 sentences.
        learning_rate: of the first step; it falls to 0 with the last.
    """

    steps: int = 4000
    learning_rate: float = 5e-4


class FastDropout(nn.Dropout):
    """Dropout that draws the places of what is dropped, not a number for each element.

    PyTorch's takes half of a step's time on a CPU: see `lora/dropout.py`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The input, without a gradient, with each element dropped with probability p."""
        if not self.training or not self.p:
            return x
        left = x.clone(memory_format=torch.contiguous_format)
        left.view(-1).index_fill_(0, dropped_places(x, self.p), 0.0)
        return left.mul_(1 / (1 - self.p))


@dataclass(frozen=True)
class StandIn:
    """Stands for an encoder whose states are on disk.

    Args:
        embedding_size: D.
    """

    embedding_size: int
    lora_rank: int = 0
    is_loaded: bool = True


def probe(
    splits: ProbedSplits,
    layer: int,
    seed: int,
    training: Training,
) -> dict[str, dict[str, Scores]]:
    """Trains a linear layer for each shift, both on the same batches, and measures it.

    Args:
        splits: the sentences with their states.
        layer: whose states to read.
        seed: of the weights, of dropout and of the order of the sentences.
        training: how long, and at what rate.

    Returns:
        shift -> split (`validation`, `test`) -> score -> value.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tagger = _train(splits, layer, training)
    tagger.eval()
    found: dict[str, dict[str, Scores]] = {str(shift): {} for shift in splits.shifts}
    for split in splits.sentences:
        if split != "train":
            for shift, scores in _measure(tagger, splits, layer, split).items():
                found[shift][split] = scores
    return found


def _train(splits: ProbedSplits, layer: int, training: Training) -> TokenClassification:
    encoder = cast(Encoder, StandIn(splits.size(layer)))
    shift: Any = "auto" if len(splits.shifts) > 1 else 0
    tagger = TokenClassification(encoder, shift, learning_rate=training.learning_rate)
    tagger.dropout = FastDropout(tagger.dropout.p)
    tagger.labels, tagger.has_spans = splits.labels, splits.has_spans
    tagger.build(splits.labels)
    configured: Any = tagger.optimizers_for(training.steps)
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    orders = _orders(len(splits.sentences["train"]))
    for sentences in islice(orders, training.steps):
        loss = tagger.loss(splits.batch("train", layer, sentences))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return tagger


def _orders(count: int) -> Iterator[list[int]]:
    """Batches of sentences without an end, in another order each epoch."""
    while True:
        order = torch.randperm(count).tolist()
        for start in range(0, count, BATCH_SIZE):
            yield order[start : start + BATCH_SIZE]


@torch.no_grad()
def _measure(
    tagger: TokenClassification, splits: ProbedSplits, layer: int, split: WordSplit
) -> dict[str, Scores]:
    for start in range(0, count := len(splits.sentences[split]), MEASURED_AT_ONCE):
        rows = range(start, min(start + MEASURED_AT_ONCE, count))
        tagger.validation_step(splits.batch(split, layer, rows), 0)
    found: dict[str, Scores] = {}
    for shift, metric in tagger.scores.items():
        scores: Any = metric
        found[shift] = {name: float(value) for name, value in scores.compute().items()}
        scores.reset()
    return found
