"""From decoder to encoder in one command: the recipes one after another."""

from llm2vec_pl.training.pipeline.measures import (
    Measure,
    classification,
    documentation,
    retrieval,
    sts,
)
from llm2vec_pl.training.pipeline.run import Pipeline
from llm2vec_pl.training.pipeline.stages import STAGES
from llm2vec_pl.training.pipeline.trained import trained_encoders

__all__ = [
    "STAGES",
    "Measure",
    "Pipeline",
    "classification",
    "documentation",
    "retrieval",
    "sts",
    "trained_encoders",
]
