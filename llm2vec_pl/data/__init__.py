"""Data modules: text as token batches."""

from llm2vec_pl.data.contrastive_data import ContrastiveData
from llm2vec_pl.data.e5 import E5
from llm2vec_pl.data.mixture import Mixture
from llm2vec_pl.data.python_docs import PythonDocs
from llm2vec_pl.data.python_docs_pairs import PythonDocsPairs
from llm2vec_pl.data.retrieval_task import RetrievalTask, own_documents
from llm2vec_pl.data.sentences import PythonDocsSentences, WikipediaSentences
from llm2vec_pl.data.text_blocks import TextBlocks
from llm2vec_pl.data.wikipedia import Wikipedia

__all__ = [
    "E5",
    "ContrastiveData",
    "Mixture",
    "PythonDocs",
    "PythonDocsPairs",
    "PythonDocsSentences",
    "RetrievalTask",
    "TextBlocks",
    "Wikipedia",
    "WikipediaSentences",
    "own_documents",
]
