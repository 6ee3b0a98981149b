"""Turn any decoder-only language model into a text encoder (LLM2Vec, arXiv 2404.05961).

The public names are imported when they are first used, so that importing the package is quick and
encoding needs no Lightning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm2vec_pl.bidirectional import check_bidirectional, make_bidirectional
    from llm2vec_pl.data import (
        E5,
        GradedPairs,
        Mixture,
        PythonDocs,
        PythonDocsPairs,
        PythonDocsSentences,
        Wikipedia,
        WikipediaSentences,
        WordTask,
    )
    from llm2vec_pl.encoder import Encoder, MultiVectorEncoder
    from llm2vec_pl.errors import UserError
    from llm2vec_pl.objectives import (
        MNTP,
        AnglE,
        CausalLM,
        Contrastive,
        CoSENT,
        Distillation,
        GISTEmbed,
        LateInteraction,
        Objective,
        TokenClassification,
    )

__version__ = "0.1.0"

__all__ = [
    "E5",
    "MNTP",
    "AnglE",
    "CausalLM",
    "CoSENT",
    "Contrastive",
    "Distillation",
    "Encoder",
    "GISTEmbed",
    "GradedPairs",
    "LateInteraction",
    "Mixture",
    "MultiVectorEncoder",
    "Objective",
    "PythonDocs",
    "PythonDocsPairs",
    "PythonDocsSentences",
    "TokenClassification",
    "UserError",
    "Wikipedia",
    "WikipediaSentences",
    "WordTask",
    "check_bidirectional",
    "make_bidirectional",
]


def lazy_exports(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`, which import its names when they are first used.

    Args:
        package: its `__name__`.
        modules: for each name, the module of the package that defines it.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return get, lambda: sorted(modules)


__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Encoder": "encoder",
        "MultiVectorEncoder": "encoder",
        "make_bidirectional": "bidirectional",
        "check_bidirectional": "bidirectional",
        "Objective": "objectives",
        "MNTP": "objectives",
        "CausalLM": "objectives",
        "CoSENT": "objectives",
        "AnglE": "objectives",
        "Contrastive": "objectives",
        "Distillation": "objectives",
        "TokenClassification": "objectives",
        "GISTEmbed": "objectives",
        "LateInteraction": "objectives",
        "PythonDocs": "data",
        "Wikipedia": "data",
        "Mixture": "data",
        "E5": "data",
        "GradedPairs": "data",
        "PythonDocsPairs": "data",
        "PythonDocsSentences": "data",
        "WikipediaSentences": "data",
        "WordTask": "data",
        "UserError": "errors",
    },
)
