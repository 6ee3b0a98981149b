"""Loaders that can continue in the middle of an epoch."""

from llm2vec_pl.data.resuming.fit_progress import FitProgress
from llm2vec_pl.data.resuming.resumable import ResumableBatchSampler, ResumableLoader, State

__all__ = [
    "FitProgress",
    "ResumableBatchSampler",
    "ResumableLoader",
    "State",
]
