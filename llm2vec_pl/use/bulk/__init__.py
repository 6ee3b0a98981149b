"""A corpus to Parquet: ids and embeddings, by all devices, whatever kills the run on the way.

The public names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm2vec_pl import lazy_exports

if TYPE_CHECKING:
    from llm2vec_pl.use.bulk.corpus import open_corpus
    from llm2vec_pl.use.bulk.documents import Columns, Documents, choose_columns
    from llm2vec_pl.use.bulk.embedding import Embedding, Precision
    from llm2vec_pl.use.bulk.engine import StoppedError
    from llm2vec_pl.use.bulk.on_ray import embed_corpus_on_ray
    from llm2vec_pl.use.bulk.parts import PART_KEY, PART_NAME
    from llm2vec_pl.use.bulk.run import Embedded, embed_corpus
    from llm2vec_pl.use.bulk.settings import encoder_settings

__all__ = [
    "PART_KEY",
    "PART_NAME",
    "Columns",
    "Documents",
    "Embedded",
    "Embedding",
    "Precision",
    "StoppedError",
    "choose_columns",
    "embed_corpus",
    "embed_corpus_on_ray",
    "encoder_settings",
    "open_corpus",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "PART_KEY": "parts",
        "PART_NAME": "parts",
        "Columns": "documents",
        "Documents": "documents",
        "Embedded": "run",
        "Embedding": "embedding",
        "Precision": "embedding",
        "StoppedError": "engine",
        "choose_columns": "documents",
        "embed_corpus": "run",
        "embed_corpus_on_ray": "on_ray",
        "encoder_settings": "settings",
        "open_corpus": "corpus",
    },
)
