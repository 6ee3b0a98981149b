"""What a stage brought on each side, and whether the sides began alike."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from llm2vec_pl.evaluation import STSTask
from llm2vec_pl.evaluation.sts import spearman

ALIKE = 1e-3  # how far two losses of the same weights on the same batches may be apart, relative


@dataclass
class Side:
    """What one side's stage took and left.

    Args:
        before: loss on held-out batches before training, without dropout, in nats.
        after: the same after training.
        losses: the loss of each training step.
        seconds: the seconds of each.
        peak: peak memory of the process in MiB, or of the GPU.
        embeddings: the file with the embeddings of the sentences, (N, D).
        sentences: N sentences.
        sts: Spearman's correlation; None without a task.
    """

    before: float
    after: float
    losses: list[float]
    seconds: list[float]
    peak: float
    embeddings: Path
    sentences: Sequence[str]
    sts: float | None = field(default=None)

    def measure(self, task: STSTask | None) -> None:
        """Compares the cosines of the embeddings with a task's scores."""
        import numpy as np

        if task is None:
            return
        embeddings = torch.from_numpy(np.load(self.embeddings)).float()
        rows = {text: i for i, text in enumerate(self.sentences)}
        first = embeddings[[rows[text] for text in task.first]]
        second = embeddings[[rows[text] for text in task.second]]
        scores = torch.tensor(task.scores, dtype=torch.float64)
        self.sts = spearman(F.cosine_similarity(first, second), scores).item()


@dataclass
class StageResult:
    """A stage on all sides, ours first.

    Args:
        job: what was asked for.
        sides: what each side took and left, by name.
        from_decoder: whether the sides started from the same weights.
    """

    job: dict[str, Any]
    sides: dict[str, Side]
    from_decoder: bool

    @property
    def ratio(self) -> float:
        """How many times faster ours is: the median over steps, taken in turn."""
        ours, theirs = self.sides.values()
        pairs = list(zip(ours.seconds, theirs.seconds, strict=True))
        # The first step fills the allocators' pools.
        return statistics.median(b / a for a, b in pairs[1:] or pairs)

    def lines(self) -> list[str]:
        """How the sides compare."""
        name = self.job["stage"]
        if len(self.sides) < 2:
            return []
        ours, theirs = self.sides.values()
        memory = ours.peak / theirs.peak
        lines = [f"{name}: {self.ratio:.2f} times the other's speed, {memory:.2f} of its memory"]
        if self.from_decoder:
            apart = abs(ours.before - theirs.before) / max(abs(theirs.before), 1e-9)
            alike = "alike" if apart <= ALIKE else "NOT ALIKE, as when texts with a BOS are cut"
            lines.append(
                f"{name}: the untrained decoder's losses on the same batches are {alike} "
                f"({ours.before:.6f} and {theirs.before:.6f})"
            )
        return lines

    def sides_as_json(self) -> dict[str, Any]:
        """Each side's numbers."""
        return {
            name: {
                "held_out_before": side.before,
                "held_out_after": side.after,
                "sts": side.sts,
                "losses": side.losses,
                "seconds": side.seconds,
                "peak_mib": side.peak,
            }
            for name, side in self.sides.items()
        }


def report(results: Sequence[StageResult], task: STSTask | None) -> None:
    """Prints a row for each stage and side."""
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "", title="Stages side by side")
    for name in (
        "held-out\nbefore",
        "loss\nafter",
        task.name if task else "",
        "s/step",
        "s",
        "GiB",
    ):
        table.add_column(name, justify="right")
    for result in results:
        for name, side in result.sides.items():
            table.add_row(
                result.job["stage"],
                name,
                f"{side.before:.4f}",
                f"{side.after:.4f}",
                "" if side.sts is None else f"{side.sts:.3f}",
                f"{statistics.median(side.seconds):.2f}",
                f"{sum(side.seconds):.0f}",
                f"{side.peak / 1024:.1f}",
            )
    console = Console()
    console.print(table)
    for line in (line for result in results for line in result.lines()):
        console.print(line, highlight=False, soft_wrap=True)
