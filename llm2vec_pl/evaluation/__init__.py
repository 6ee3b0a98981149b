"""How good an encoder is: STS, retrieval, the geometry of its embeddings, while it trains or after.

The public names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm2vec_pl.evaluation.callbacks import Evaluation, RetrievalEvaluation, STSEvaluation
    from llm2vec_pl.evaluation.geometry import alignment, uniformity
    from llm2vec_pl.evaluation.retrieval import RetrievalTask, evaluate_retrieval
    from llm2vec_pl.evaluation.sts import STSTask, evaluate_sts
    from llm2vec_pl.evaluation.summary import evaluate

_MODULES = {
    "evaluate": "summary",
    "Evaluation": "callbacks",
    "STSEvaluation": "callbacks",
    "RetrievalEvaluation": "callbacks",
    "STSTask": "sts",
    "evaluate_sts": "sts",
    "RetrievalTask": "retrieval",
    "evaluate_retrieval": "retrieval",
    "alignment": "geometry",
    "uniformity": "geometry",
}

__all__ = [
    "Evaluation",
    "RetrievalEvaluation",
    "RetrievalTask",
    "STSEvaluation",
    "STSTask",
    "alignment",
    "evaluate",
    "evaluate_retrieval",
    "evaluate_sts",
    "uniformity",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'llm2vec_pl.evaluation' has no attribute {name!r}")
    return getattr(import_module(f"llm2vec_pl.evaluation.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
