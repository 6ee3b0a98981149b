"""Training and validation texts of a source, whether or not it has a split for each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from llm2vec_pl.data.rows import GoodTexts, OnBadRow
from llm2vec_pl.data.sources import TextSource

Split = Literal["train", "validation"]
SPLITS: tuple[Split, Split] = ("train", "validation")
VALIDATION_PERCENT = 1


def held_out(key: str, percent: int) -> bool:
    """Whether a key is among the `percent` of all keys that are kept for validation."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100 < percent


@dataclass(frozen=True)
class SplitTexts:
    """The good texts of a source's rows, in two splits.

    Where the source has no validation split, 1 % of its training texts is one, chosen by a hash
    of the text: the same text never is in both.

    Args:
        source: where the rows come from.
        on_bad_row: what to do with a row that holds no text.
        max_rows: rows read of each split of the source; all where None.
    """

    source: TextSource
    on_bad_row: OnBadRow
    max_rows: int | None

    def read(self, split: Split, report: Callable[[str], Any] | None = None) -> Iterator[str]:
        """The texts of a split; `report` is given a line on rows that were skipped."""
        has_validation = "validation" in self.source.splits
        rows = self.source.rows(split if has_validation else "train")
        texts = GoodTexts(islice(rows, self.max_rows), self.on_bad_row)
        for text in texts:
            if has_validation or held_out(text, VALIDATION_PERCENT) == (split == "validation"):
                yield text
        already_reported = split == "validation" and not has_validation
        if report and texts.skipped and not already_reported:
            report(texts.summary)

    def identity(self) -> dict[str, Any]:
        """What changes when the texts do, as JSON."""
        return {
            "rows": self.source.identity(),
            "on_bad_row": self.on_bad_row,
            "max_rows": self.max_rows,
            "validation_percent": VALIDATION_PERCENT,
        }
