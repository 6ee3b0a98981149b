"""The documentation of Python and of this package's requirements, as a corpus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm2vec_pl.data.files import SPLITS, installed_packages
from llm2vec_pl.use.search.document import Document

_SHORTEST = 20  # characters; shorter ones are "Return True." and the like


class PythonCorpus:
    """The docstrings that `PythonDocs` reads, each with its dotted name as title."""

    def __init__(self) -> None:
        self.name = "the documentation of the installed Python packages"
        self.notes: list[str] = []

    def state(self) -> dict[str, Any]:
        """Package -> version."""
        return {package.name: package.version for package in installed_packages()}

    def documents(self) -> Iterator[Document]:
        """Sorted by name, in the training split and then in the other."""
        from llm2vec_pl.data import PythonDocs  # imports Lightning, which takes seconds

        docs = PythonDocs()
        for split in SPLITS:
            for name, text in docs.docstrings(split):
                if len(text) >= _SHORTEST:
                    yield Document(text, place=name, title=name)

    def shown(self, place: str) -> str:
        """The dotted name."""
        return place
