"""IOB1, IOB2 and IOBES -> IOB2."""

from __future__ import annotations

import re
from collections.abc import Sequence

OUTSIDE = "O"
_TAG = re.compile(r"([BIESLUM])(?:-(.+))?")
_BEGINS = "BSU"
_ENDS = "ESLU"


class NoSpanTagError(ValueError):
    """A tag that marks no span; the message is the tag."""


def to_iob2(tags: Sequence[str]) -> list[str]:
    """The tags of a sentence in IOB2, in which each span begins with B.

    In IOB1 a span begins with I, and with B only right after another one of its type (as in the
    original CoNLL-2003). IOB2 stays as it is, and an I that continues nothing begins a span. The
    further letters of IOBES, BILOU and BMES are read too.

    Args:
        tags: such as `O`, `B-PER`, `I-PER`; of one sentence.

    Raises:
        NoSpanTagError: for a tag of another form.

    >>> to_iob2(["I-PER", "I-PER", "B-PER", "O", "I-LOC"])
    ['B-PER', 'I-PER', 'B-PER', 'O', 'B-LOC']
    >>> to_iob2(["S-LOC", "B-PER", "E-PER"])
    ['B-LOC', 'B-PER', 'I-PER']
    """
    written = []
    inside: str | None = None  # the type of the span that goes on
    for tag in tags:
        if tag == OUTSIDE:
            inside = None
            written.append(tag)
            continue
        parts = _TAG.fullmatch(tag)
        if parts is None:
            raise NoSpanTagError(tag)
        kind = parts[2] or ""
        begins = parts[1] in _BEGINS or kind != inside
        letter = "B" if begins else "I"
        written.append(f"{letter}-{kind}" if kind else letter)
        inside = None if parts[1] in _ENDS else kind
    return written


def looks_like_spans(tags: Sequence[str]) -> bool:
    """Whether tags that should be parts of speech are those of spans."""
    spans = [tag for tag in set(tags) if tag != OUTSIDE]
    return bool(spans) and all("-" in tag and _TAG.fullmatch(tag) for tag in spans)


def label_order(label: str) -> tuple[bool, str, str]:
    """Sorts labels: O first, then each type with B before I; parts of speech by the alphabet."""
    parts = _TAG.fullmatch(label)
    kind = parts[2] if parts and parts[2] else label
    return label != OUTSIDE, kind, label
