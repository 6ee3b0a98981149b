"""Turn any decoder-only language model into a text encoder (LLM2Vec, arXiv 2404.05961).

The public names are imported when they are first used, so that importing the package is quick and
encoding needs no Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm2vec_pl.bidirectional import check_bidirectional, make_bidirectional
    from llm2vec_pl.data import (
        E5,
        Mixture,
        PythonDocs,
        PythonDocsPairs,
        PythonDocsSentences,
        Wikipedia,
        WikipediaSentences,
    )
    from llm2vec_pl.encoder import Encoder
    from llm2vec_pl.errors import UserError
    from llm2vec_pl.objectives import MNTP, CausalLM, Contrastive, Objective

__version__ = "0.1.0"

_MODULES = {
    "Encoder": "encoder",
    "make_bidirectional": "bidirectional",
    "check_bidirectional": "bidirectional",
    "Objective": "objectives",
    "MNTP": "objectives",
    "CausalLM": "objectives",
    "Contrastive": "objectives",
    "PythonDocs": "data",
    "Wikipedia": "data",
    "Mixture": "data",
    "E5": "data",
    "PythonDocsPairs": "data",
    "PythonDocsSentences": "data",
    "WikipediaSentences": "data",
    "UserError": "errors",
}

__all__ = [
    "E5",
    "MNTP",
    "CausalLM",
    "Contrastive",
    "Encoder",
    "Mixture",
    "Objective",
    "PythonDocs",
    "PythonDocsPairs",
    "PythonDocsSentences",
    "UserError",
    "Wikipedia",
    "WikipediaSentences",
    "check_bidirectional",
    "make_bidirectional",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'llm2vec_pl' has no attribute {name!r}")
    return getattr(import_module(f"llm2vec_pl.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
