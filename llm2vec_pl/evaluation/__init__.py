"""How good an encoder is: STS, retrieval, classification, geometry; in training or afterwards.

The public names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm2vec_pl import lazy_exports

if TYPE_CHECKING:
    from llm2vec_pl.evaluation.callbacks import Evaluation, RetrievalEvaluation, STSEvaluation
    from llm2vec_pl.evaluation.classification import ClassificationTask, evaluate_classification
    from llm2vec_pl.evaluation.embedding import encode_on_all_ranks
    from llm2vec_pl.evaluation.geometry import (
        alignment,
        anisotropy,
        effective_rank,
        uniformity,
    )
    from llm2vec_pl.evaluation.nearest import Nearest, search_device
    from llm2vec_pl.evaluation.retrieval import RetrievalTask, evaluate_retrieval, search
    from llm2vec_pl.evaluation.sts import STSTask, evaluate_sts, spearman
    from llm2vec_pl.evaluation.summary import evaluate
    from llm2vec_pl.evaluation.table import Rows, print_table, report

__all__ = [
    "ClassificationTask",
    "Evaluation",
    "Nearest",
    "RetrievalEvaluation",
    "RetrievalTask",
    "Rows",
    "STSEvaluation",
    "STSTask",
    "alignment",
    "anisotropy",
    "effective_rank",
    "encode_on_all_ranks",
    "evaluate",
    "evaluate_classification",
    "evaluate_retrieval",
    "evaluate_sts",
    "print_table",
    "report",
    "search",
    "search_device",
    "spearman",
    "uniformity",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ClassificationTask": "classification",
        "Evaluation": "callbacks",
        "Nearest": "nearest",
        "RetrievalEvaluation": "callbacks",
        "RetrievalTask": "retrieval",
        "Rows": "table",
        "STSEvaluation": "callbacks",
        "STSTask": "sts",
        "alignment": "geometry",
        "anisotropy": "geometry",
        "effective_rank": "geometry",
        "encode_on_all_ranks": "embedding",
        "evaluate": "summary",
        "evaluate_classification": "classification",
        "evaluate_retrieval": "retrieval",
        "evaluate_sts": "sts",
        "print_table": "table",
        "report": "table",
        "search": "retrieval",
        "search_device": "nearest",
        "spearman": "sts",
        "uniformity": "geometry",
    },
)
