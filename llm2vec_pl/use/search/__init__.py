"""Search: passages of documents by the cosine of their embeddings, in an index on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm2vec_pl import lazy_exports

if TYPE_CHECKING:
    from llm2vec_pl.use.search.building import PASSAGE_TOKENS
    from llm2vec_pl.use.search.corpus import open_corpus
    from llm2vec_pl.use.search.results import as_json, as_text
    from llm2vec_pl.use.search.searcher import Searcher

__all__ = ["PASSAGE_TOKENS", "Searcher", "as_json", "as_text", "open_corpus"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "PASSAGE_TOKENS": "building",
        "Searcher": "searcher",
        "as_json": "results",
        "as_text": "results",
        "open_corpus": "corpus",
    },
)
