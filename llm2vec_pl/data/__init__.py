"""Data modules: text as token batches.

The public names are imported when they are first used, so that `data.files` needs no Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm2vec_pl import lazy_exports

if TYPE_CHECKING:
    from llm2vec_pl.data.contrastive_data import ContrastiveData
    from llm2vec_pl.data.e5 import E5
    from llm2vec_pl.data.graded_pairs import GradedPairs
    from llm2vec_pl.data.mixture import Mixture
    from llm2vec_pl.data.python_docs import PythonDocs
    from llm2vec_pl.data.python_docs_pairs import PythonDocsPairs
    from llm2vec_pl.data.retrieval_task import RetrievalTask, own_documents
    from llm2vec_pl.data.sentences import PythonDocsSentences, WikipediaSentences
    from llm2vec_pl.data.text_blocks import TextBlocks
    from llm2vec_pl.data.wikipedia import Wikipedia
    from llm2vec_pl.data.word_task import WordTask

__all__ = [
    "E5",
    "ContrastiveData",
    "GradedPairs",
    "Mixture",
    "PythonDocs",
    "PythonDocsPairs",
    "PythonDocsSentences",
    "RetrievalTask",
    "TextBlocks",
    "Wikipedia",
    "WikipediaSentences",
    "WordTask",
    "own_documents",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ContrastiveData": "contrastive_data",
        "E5": "e5",
        "GradedPairs": "graded_pairs",
        "Mixture": "mixture",
        "PythonDocs": "python_docs",
        "PythonDocsPairs": "python_docs_pairs",
        "PythonDocsSentences": "sentences",
        "RetrievalTask": "retrieval_task",
        "TextBlocks": "text_blocks",
        "Wikipedia": "wikipedia",
        "WikipediaSentences": "sentences",
        "WordTask": "word_task",
        "own_documents": "retrieval_task",
    },
)
