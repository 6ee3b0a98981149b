"""What is searched: documents of any origin, each with the place at which it is found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol


class Document(NamedTuple):
    """A text of a corpus.

    Args:
        text: what is searched.
        place: a file's path inside the corpus, or the name of what is documented.
        line: the line on which the text begins, or the number of its row; None if it has none.
        by_lines: whether the lines of the text are those of the file, so that a passage further
            down has a line of its own.
        title: stands before each passage when it is embedded; "" if there is none.
    """

    text: str
    place: str
    line: int | None = None
    by_lines: bool = False
    title: str = ""


class Corpus(Protocol):
    """Documents, and how to see whether they are still the same."""

    name: str
    """Says which corpus this is, wherever the command runs."""

    notes: list[str]
    """What was left out of the last reading, and why; a line each."""

    def state(self) -> dict[str, Any]:
        """Part -> what changes when the part does, as JSON: for a file, size and time."""

    def documents(self) -> Iterator[Document]:
        """All documents, read anew."""

    def shown(self, place: str) -> str:
        """A document's place as it is printed."""
