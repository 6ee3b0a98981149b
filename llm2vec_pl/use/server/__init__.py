"""An encoder behind OpenAI's `/v1/embeddings`, with a page to try it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm2vec_pl import lazy_exports

if TYPE_CHECKING:
    from llm2vec_pl.use.server.serving import serve

__all__ = ["serve"]

__getattr__, __dir__ = lazy_exports(__name__, {"serve": "serving"})
