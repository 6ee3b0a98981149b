"""Documents -> passages that an encoder reads whole."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from llm2vec_pl.use.search.document import Document

_DOCUMENTS_AT_ONCE = 256  # whose paragraphs are counted together, which is faster

_PARAGRAPH = re.compile(r"[^\n]*\S[^\n]*(?:\n[^\n]*\S[^\n]*)*")  # lines that are not blank
_HEADING = re.compile(r"#{1,6} ")
_BORDERS = (re.compile(r"\n"), re.compile(r"(?<=[.!?…])\s+"), re.compile(r"\s+"))
"""Where a paragraph is cut that is too long, the best first: lines, sentences, words."""

CountTokens = Callable[[list[str]], list[int]]


class Passage(NamedTuple):
    """A part of a document: its text, where it is found, and the title that it is embedded with."""

    text: str
    place: str
    line: int | None
    title: str

    @property
    def embedded(self) -> str:
        """What the encoder reads."""
        return f"{self.title}\n{self.text}" if self.title else self.text


class _Piece(NamedTuple):
    text: str
    start: int  # the place of its first character in the document
    tokens: int


def split(documents: Iterable[Document], count: CountTokens, most: int) -> Iterator[Passage]:
    """Passages of at most `most` tokens: paragraphs, several if they are short.

    A heading (`# `) begins a passage. A paragraph that is too long is cut at the end of a line, of
    a sentence or of a word near its middle, until each part fits.

    Args:
        documents: read once, a few at a time.
        count: the tokens of each of some texts.
        most: tokens of a passage, without its title.
    """
    source = iter(documents)
    while some := list(islice(source, _DOCUMENTS_AT_ONCE)):
        found = [list(_PARAGRAPH.finditer(document.text)) for document in some]
        counted = iter(count([match[0] for matches in found for match in matches]))
        for document, matches in zip(some, found, strict=True):
            pieces = [_Piece(match[0], match.start(), next(counted)) for match in matches]
            yield from _passages(document, pieces, count, most)


def _passages(
    document: Document, pieces: list[_Piece], count: CountTokens, most: int
) -> Iterator[Passage]:
    text, place, line, by_lines, title = document
    ends = [match.start() for match in re.finditer("\n", text)] if by_lines else []
    for group in _grouped([part for piece in pieces for part in _cut(piece, count, most)], most):
        start, last = group[0].start, group[-1]
        here = line + bisect_left(ends, start) if line is not None else None
        yield Passage(text[start : last.start + len(last.text)], place, here, title)


def _grouped(pieces: list[_Piece], most: int) -> Iterator[list[_Piece]]:
    group: list[_Piece] = []
    tokens = 0
    for piece in pieces:
        if group and (tokens + piece.tokens > most or _HEADING.match(piece.text)):
            yield group
            group, tokens = [], 0
        group.append(piece)
        tokens += piece.tokens
    if group:
        yield group


def _cut(piece: _Piece, count: CountTokens, most: int) -> Iterator[_Piece]:
    if piece.tokens <= most or len(piece.text) < 2:
        yield piece
        return
    middle = _near_the_middle(piece.text)
    halves = [(piece.text[:middle], piece.start), (piece.text[middle:], piece.start + middle)]
    trimmed = [(half.strip(), start + len(half) - len(half.lstrip())) for half, start in halves]
    trimmed = [(half, start) for half, start in trimmed if half]
    for (half, start), tokens in zip(trimmed, count([half for half, _ in trimmed]), strict=True):
        yield from _cut(_Piece(half, start, tokens), count, most)


def _near_the_middle(text: str) -> int:
    """The best border in the middle half of a text, or its middle if there is none."""
    quarter = max(1, len(text) // 4)
    for border in _BORDERS:
        places = [match.end() for match in border.finditer(text, quarter, len(text) - quarter)]
        if places:
            return min(places, key=lambda place: abs(place - len(text) // 2))
    return len(text) // 2
