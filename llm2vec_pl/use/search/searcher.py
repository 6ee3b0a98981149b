"""An encoder and the index of a corpus: queries in, passages out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.use.search.building import PASSAGE_TOKENS, Indexer
from llm2vec_pl.use.search.faiss_index import WORTH_IT, FaissIndex, has_faiss
from llm2vec_pl.use.search.index import Hit

if TYPE_CHECKING:
    from llm2vec_pl.use.search.document import Corpus
    from llm2vec_pl.use.search.embedded_corpus import EmbeddedCorpus

Backend = Literal["auto", "numpy", "faiss"]
BACKENDS: tuple[Backend, ...] = ("auto", "numpy", "faiss")


class Found(NamedTuple):
    """What was found for a query, nearest first, and how long that took, embedding included."""

    query: str
    hits: list[Hit]
    seconds: float


class Searcher:
    """Finds passages of a corpus; its index is made at the first use and kept in the cache.

    Args:
        corpus: what is searched (`open_corpus`).
        model_name: the encoder, as `Encoder.from_pretrained` takes it.
        passage_tokens: tokens of a passage at most.
        backend: `numpy` compares all passages, `faiss` a part of them; `auto` is FAISS for 200,000
            passages or more, if it is installed.
        report: is called with lines on what is done.

    Raises:
        UserError: if the encoder cannot be opened, the corpus has no text, or an argument is not
            one of those above.
    """

    def __init__(
        self,
        corpus: Corpus | EmbeddedCorpus,
        model_name: str = "tiny",
        passage_tokens: int = PASSAGE_TOKENS,
        backend: Backend = "auto",
        report: Callable[[str], object] = print,
    ) -> None:
        if backend not in BACKENDS:
            raise UserError(f"`backend` is one of {', '.join(BACKENDS)}, but got {backend!r}.")
        self.encoder = Encoder.from_pretrained(model_name)
        if torch.cuda.is_available():
            self.encoder.to("cuda")
        indexer = Indexer(self.encoder, model_name, corpus, passage_tokens, report)
        self.index = indexer.index()
        large = len(self.index) >= WORTH_IT
        self.approximate = backend == "faiss" or (backend == "auto" and large and has_faiss())
        if self.approximate:
            lists = FaissIndex(self.index.folder, self.index.embeddings)
            if not lists.is_built:
                report("FAISS sorts the embeddings into lists, once")
                lists.build()

    def __call__(self, query: str, top: int = 5) -> Found:
        """The passages that are nearest to a query.

        Args:
            query: a question, or a few words.
            top: how many passages.

        Raises:
            UserError: if the query is empty, or `top` is below 1.
        """
        if top < 1:
            raise UserError(f"`top` is at least 1, but got {top}.")
        if not query.strip():
            raise UserError("The query is empty. Write what you are looking for.")
        start = time.perf_counter()
        size = self.index.embeddings.shape[1]  # smaller than the encoder's if they were cut
        embedding = self.encoder.encode_query(query)[:size]
        hits = self.index.search(embedding, top, self.approximate)
        return Found(query, hits, time.perf_counter() - start)
