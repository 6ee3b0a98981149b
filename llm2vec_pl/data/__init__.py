"""Data modules: text as token batches."""

from llm2vec_pl.data.mixture import Mixture
from llm2vec_pl.data.python_docs import PythonDocs
from llm2vec_pl.data.wikipedia import Wikipedia

__all__ = ["Mixture", "PythonDocs", "Wikipedia"]
