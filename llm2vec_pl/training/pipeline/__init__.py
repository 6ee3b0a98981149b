"""From decoder to encoder in one command: the recipes one after another."""

from llm2vec_pl.training.pipeline.run import Pipeline

__all__ = [
    "Pipeline",
]
