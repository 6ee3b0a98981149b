"""What was found, for people and for programs."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm2vec_pl.use.search.document import Corpus
    from llm2vec_pl.use.search.embedded_corpus import EmbeddedCorpus
    from llm2vec_pl.use.search.passages import Passage
    from llm2vec_pl.use.search.searcher import Found

_SHOWN = 280  # characters of a passage


def as_text(found: Found, corpus: Corpus | EmbeddedCorpus) -> str:
    """Rank, cosine, place and the beginning of each passage."""
    lines = []
    for rank, (score, passage) in enumerate(found.hits, 1):
        title = f"  {passage.title}" if passage.title not in ("", passage.place) else ""
        lines.append(f"{rank:2}  {score:.3f}  {_place(passage, corpus)}{title}")
        text = textwrap.shorten(passage.text, _SHOWN, placeholder=" …")
        if text:  # embeddings of another command may come without
            lines.append(textwrap.indent(textwrap.fill(text, 92), " " * 11))
    return "\n".join(lines)


def as_json(found: Found, corpus: Corpus | EmbeddedCorpus) -> str:
    """One line: `query`, `seconds`, and `hits` with rank, score, place, line, title and text."""
    hits = [
        {
            "rank": rank,
            "score": round(score, 6),
            "place": corpus.shown(passage.place),
            "line": passage.line,
            "title": passage.title,
            "text": passage.text,
        }
        for rank, (score, passage) in enumerate(found.hits, 1)
    ]
    return json.dumps({"query": found.query, "seconds": round(found.seconds, 6), "hits": hits})


def _place(passage: Passage, corpus: Corpus | EmbeddedCorpus) -> str:
    line = "" if passage.line is None else f":{passage.line}"
    return f"{corpus.shown(passage.place)}{line}"
