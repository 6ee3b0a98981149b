"""Data modules: text as token batches."""

from llm2vec_pl.data.e5 import E5
from llm2vec_pl.data.mixture import Mixture
from llm2vec_pl.data.python_docs import PythonDocs
from llm2vec_pl.data.python_docs_pairs import PythonDocsPairs
from llm2vec_pl.data.sentences import PythonDocsSentences, WikipediaSentences
from llm2vec_pl.data.wikipedia import Wikipedia

__all__ = [
    "E5",
    "Mixture",
    "PythonDocs",
    "PythonDocsPairs",
    "PythonDocsSentences",
    "Wikipedia",
    "WikipediaSentences",
]
