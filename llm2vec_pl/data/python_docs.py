"""The documentation of the Python packages on this machine: text that everybody has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from llm2vec_pl.data.files import (
    Docstring,
    Package,
    Split,
    held_out,
    installed_packages,
    read_docstrings,
)
from llm2vec_pl.data.text_blocks import TextBlocks
from llm2vec_pl.files import cached_folder

if TYPE_CHECKING:
    from llm2vec_pl.data.retrieval_task import RetrievalTask

HELD_OUT_PERCENT = 5
_FORMAT = 3  # of what is cached; raise it when `read_docstrings` gives different text
_SHORTEST_TEXT = 60  # characters; shorter ones are "Return True." and the like


# A list of arguments, a directive or a section's title in place of a summary.
_NO_SUMMARY = re.compile(r"\w+ ?\(|[\w ]+:\n|[:.@]|(Args|Arguments|Parameters|Returns?)\b:?$")


class DocPair(NamedTuple):
    """A docstring's summary and the text below it, which answers it."""

    name: str
    query: str
    positive: str


class PythonDocs(TextBlocks):
    """Docstrings of the standard library and of this package's requirements, over 20 MB of prose.

    They are read from the installed source; nothing is imported or downloaded. 5 % of the names
    are held out for validation and for the retrieval test, chosen by a hash of the name.

    Args:
        max_length: tokens per block; the encoder's `max_length` by default.
        batch_size: blocks per batch and device.
        num_workers: processes that load batches.
        seed: seed of the order of the blocks, which is a function of seed and epoch.
    """

    def __init__(
        self,
        max_length: int | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(max_length, batch_size, 1, num_workers, seed)

    @override
    def source(self) -> dict[str, Any]:
        packages = [(package.name, package.version) for package in self._packages]
        return {"packages": packages, "format": _FORMAT}

    @override
    def texts(self, split: Split) -> Iterator[str]:
        for docstring in self.docstrings(split):
            if len(docstring.text) >= _SHORTEST_TEXT:
                yield docstring.text

    def docstrings(self, split: Split) -> Iterator[Docstring]:
        """The docstrings of a split with their dotted names, sorted by name."""
        for docstring in self._docstrings:
            if held_out(docstring.name, HELD_OUT_PERCENT) == (split == "validation"):
                yield docstring

    def pairs(self, split: Split) -> list[DocPair]:
        """(name, query, positive): a summary and the text below it; no two of either are alike."""
        return [
            pair
            for pair in self._pairs
            if held_out(pair.name, HELD_OUT_PERCENT) == (split == "validation")
        ]

    def retrieval(self, num_queries: int = 800) -> RetrievalTask:
        """The held-out summaries as queries, each with the one text below it in its docstring."""
        from llm2vec_pl.data.retrieval_task import RetrievalTask

        pairs = sorted(self.pairs("validation"), key=lambda pair: _scattered(pair.name))
        pairs = sorted(pairs[:num_queries])
        return RetrievalTask(
            name="python_docs",
            queries={pair.name: pair.query for pair in pairs},
            corpus={pair.name: pair.positive for pair in pairs},
            relevant={pair.name: {pair.name: 1} for pair in pairs},
        )

    @cached_property
    def _packages(self) -> list[Package]:
        return installed_packages()

    @cached_property
    def _docstrings(self) -> list[Docstring]:
        folder = cached_folder("docstrings", self.source(), self._write_docstrings)
        import pyarrow.feather as feather

        table = feather.read_table(folder / "docstrings.arrow")
        return list(map(Docstring, *(column.to_pylist() for column in table.columns)))

    @cached_property
    def _pairs(self) -> list[DocPair]:
        return unlike_pairs(self._docstrings)

    def _write_docstrings(self, folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.feather as feather

        rank_zero_info(
            f"PythonDocs: reading the docstrings of {len(self._packages)} installed packages, once"
        )
        names, texts = zip(*read_docstrings(self._packages), strict=True)
        table = pa.table({"name": list(names), "text": list(texts)})
        feather.write_feather(table, folder / "docstrings.arrow", compression="zstd")


def unlike_pairs(docstrings: list[Docstring]) -> list[DocPair]:
    """Summary and body of the docstrings with both; of pairs that look alike, only the first.

    If many classes had copies of one text, it would be a matter of luck which of them is found.
    """
    pairs: list[DocPair] = []
    seen: set[tuple[str, str]] = set()
    for name, text in docstrings:
        summary, _, body = text.partition("\n\n")
        if not (15 < len(summary) < 300 and len(body) > 80) or _NO_SUMMARY.match(summary):
            continue
        query, positive = " ".join(summary.split()), " ".join(body.split())
        looks = {("query", query.lower()), ("positive", positive[:100].lower())}
        if looks.isdisjoint(seen):
            pairs.append(DocPair(name, query, positive))
            seen |= looks
    return pairs


def _scattered(name: str) -> bytes:
    import hashlib

    return hashlib.blake2b(name.encode(), digest_size=8).digest()
