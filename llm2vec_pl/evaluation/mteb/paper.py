"""The paper's own numbers, to print beside others (LLM2Vec, Tables 1, 2, 3, 11 and 12)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

CATEGORIES = (
    *("Retrieval", "Reranking", "Clustering", "PairClassification"),
    *("Classification", "STS", "Summarization"),
)
"""Types of tasks, in the paper's order."""

SUBSET = (
    *("SciFact", "ArguAna", "NFCorpus"),
    *("StackOverflowDupQuestions", "SciDocsRR"),
    *("BiorxivClusteringS2S", "MedrxivClusteringS2S", "TwentyNewsgroupsClustering"),
    "SprintDuplicateQuestions",
    *("Banking77Classification", "EmotionClassification", "MassiveIntentClassification"),
    *("STS17", "SICK-R", "STSBenchmark"),
)
"""The 15 tasks of the paper's ablations (Table 3)."""

TRAINING = ("unsupervised", "supervised")
MODELS = ("S-LLaMA-1.3B", "LLaMA-2-7B", "Mistral-7B")
"""Of which there are numbers for each task."""


def task_scores(training: str, model: str) -> dict[str, float]:
    """A model's score on each of the 56 tasks, times 100.

    Args:
        training: `unsupervised` (MNTP, then SimCSE) or `supervised` (MNTP, then supervised).
        model: one of `MODELS`.
    """
    place = MODELS.index(model)
    return {task: scores[place] for task, scores in _numbers()["tasks"][training].items()}


def category_means(training: str) -> dict[str, dict[str, float]]:
    """Model -> mean score in each of `CATEGORIES`, and `all`, over the 56 tasks, times 100.

    Args:
        training: `unsupervised` or `supervised`.
    """
    means = _numbers()["categories"][training]
    names = (*CATEGORIES, "all")
    return {model: dict(zip(names, row, strict=True)) for model, row in means.items()}


@cache
def _numbers() -> dict[str, Any]:
    file = Path(__file__).with_name("paper.yaml")
    numbers: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return numbers
