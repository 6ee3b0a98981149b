"""Semantic textual similarity: do cosines order pairs of sentences as people do?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from llm2vec_pl.data.files import (
    PairColumns,
    Row,
    load_split,
    looks_local,
    read_records,
    scored_pair,
    spread,
)
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.embedding import embedder

COLUMNS: tuple[str, str, str] = PairColumns()[:3]


@dataclass(frozen=True)
class STSTask:
    """Pairs of sentences with gold scores.

    Args:
        name: the task's name in tables and logs.
        first: the first sentence of each pair.
        second: the second sentence of each pair.
        scores: how similar people find them; higher is more similar, on any scale.
    """

    name: str
    first: list[str]
    second: list[str]
    scores: list[float]

    @classmethod
    def read(
        cls,
        path: str | Path,
        split: str = "validation",
        subset: str | None = None,
        columns: Sequence[str] = COLUMNS,
        name: str | None = None,
    ) -> STSTask:
        """Reads a local file, or a data set of the hub such as `mteb/stsbenchmark-sts`.

        Args:
            path: a jsonl, csv, tsv or parquet file, or the name of a data set on the hub.
            split: split of the hub's data set; a file is read whole.
            subset: subset ("configuration") of the hub's data set.
            columns: names of the columns: first sentence, second sentence, score.
            name: the task's name; by default the file's stem, or the last part of the hub's name.

        Raises:
            UserError: with file and line, for anything that is not two texts and a number.
        """
        if looks_local(path):
            rows = read_records(Path(path), columns)
            name = name or Path(path).name.split(".")[0]
        else:
            rows = _hub_rows(str(path), split, subset, columns)
        pairs = [scored_pair(row, columns) for row in rows]
        if len({score for _, _, score in pairs}) < 2:
            raise UserError(
                f"{path}: expected pairs with at least two different scores, to have an order, "
                f"but got {len(pairs)} pairs with {len({pair[2] for pair in pairs})}."
            )
        first, second, scores = (list(column) for column in zip(*pairs, strict=True))
        return cls(name or str(path).split("/")[-1], first, second, scores)  # type: ignore[arg-type]

    def limited(self, limit: int | None) -> STSTask:
        """At most `limit` of the pairs, evenly spread over the task."""
        rows = spread(len(self.scores), limit)
        first, second = [self.first[i] for i in rows], [self.second[i] for i in rows]
        return STSTask(self.name, first, second, [self.scores[i] for i in rows])


def evaluate_sts(
    encoder: Encoder,
    task: STSTask,
    batch_size: int = 64,
    instruction: str = "",
    on_all_ranks: bool = False,
) -> float:
    """Spearman's rank correlation of cosine similarities with the gold scores.

    Args:
        encoder: embeds both sentences in the same way.
        task: the pairs.
        batch_size: number of texts that go through the decoder at once.
        instruction: written directly before each sentence, and not pooled.
        on_all_ranks: divide the work among all ranks, each of which must call this.

    Returns:
        A number in [-1, 1] (papers print it times 100); NaN if an embedding is not finite.
    """
    texts = list(dict.fromkeys([*task.first, *task.second]))  # each sentence once
    embeddings = embedder(encoder, batch_size, on_all_ranks)(texts, instruction)  # (N, D)
    rows = {text: i for i, text in enumerate(texts)}
    first = embeddings[[rows[text] for text in task.first]]
    second = embeddings[[rows[text] for text in task.second]]
    cosines = F.cosine_similarity(first, second)  # (B,)
    return spearman(cosines, torch.tensor(task.scores, dtype=torch.float64)).item()


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation: Pearson's of the ranks; ties share their mean rank.

    Args:
        first: N numbers, (N,).
        second: N numbers, (N,).

    Returns:
        A float64 scalar in [-1, 1]; NaN if a side is constant or not finite.

    >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 0.4, 0.9])).item()
    1.0
    """
    if not (first.isfinite().all() and second.isfinite().all()):
        return torch.tensor(torch.nan, dtype=torch.float64)
    # Not torchmetrics': it ranks in float32 and adds 1e-6 to a variance, 4e-6 off in the result.
    ranks = torch.stack([_ranks(first), _ranks(second)])  # (2, N)
    centred = ranks - ranks.mean(dim=1, keepdim=True)
    covariance, lengths = (centred[0] * centred[1]).sum(), centred.square().sum(dim=1)
    # One root of the product: of two equal sides it is exactly their length.
    return (covariance / (lengths[0] * lengths[1]).sqrt()).clamp(-1.0, 1.0)


def _ranks(values: Tensor) -> Tensor:
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()  # the rank of each value's last occurrence, from 1
    ranks: Tensor = (last - (counts - 1) / 2)[place]
    return ranks


def _hub_rows(path: str, split: str, subset: str | None, columns: Sequence[str]) -> Iterator[Row]:
    for number, row in enumerate(load_split(path, subset, split, columns), 1):
        yield Row(row, f"{path} ({split})", number, "row")
