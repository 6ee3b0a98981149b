"""What reads on the machines of a Ray cluster; without torch, which takes long to import."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

from llm2vec_pl.use.bulk.documents import Documents

Batch = dict[str, list[Any]]

END = -1
"""In the place of a chunk's number: the corpus has been read to its end."""


def read(batch: Any, documents: Documents, there: set[int], readers: int) -> Iterator[Batch]:
    """Every R-th chunk that has no file, and then the number of the corpus's rows."""
    (reader,) = batch["item"]
    for chunk in documents.chunks(lambda k: k % readers == reader and k not in there):
        yield {"number": [chunk.number], "rows": [0], "chunk": [pickle.dumps(chunk)]}
    yield {"number": [END], "rows": [documents.rows], "chunk": [b""]}
