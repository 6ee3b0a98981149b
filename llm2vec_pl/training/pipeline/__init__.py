"""Room."""

from llm2vec_pl.training.pipeline.run import Pipeline

__all__ = [
    "Pipeline",
]
