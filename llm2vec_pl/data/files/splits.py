"""Training and validation texts of a source, whether or not it has a split for each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from llm2vec_pl.data.files.rows import GoodTexts, OnBadRow
from llm2vec_pl.data.files.shards import Shard
from llm2vec_pl.data.files.sources import TextSource
from llm2vec_pl.data.files.text_ids import text_id

if TYPE_CHECKING:
    from numpy.typing import NDArray

Split = Literal["train", "validation"]
SPLITS: tuple[Split, Split] = ("train", "validation")
VALIDATION_PERCENT = 1
VALIDATION_QUERIES = 100  # at least this many, if there are enough
_HEAD = 1_000  # first rows of a stream, from which its validation texts are taken
_HEAD_CHARACTERS = 20_000_000  # fewer rows are taken if they are whole books
_LARGE_GROUP = 20  # a group of more than a 20th of the rows is for training


def held_out(key: str, percent: int) -> bool:
    """Whether a key is among the `percent` of all keys that are kept for validation."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100 < percent


@dataclass(frozen=True)
class SplitTexts:
    """The good texts of a source's rows, in two splits.

    If the source has no validation split, 1 % of its training texts becomes one, chosen by a hash
    of the text: no text is in both splits. If it has one, its texts are left out of training,
    except in a stream, whose validation split is not read before it is used. A stream without one
    is validated on a tenth of its first texts (`sample`), so that it need not be read to its end.

    Args:
        source: where the rows come from.
        on_bad_row: what to do with a row without text.
        max_rows: rows to read of each split of the source; all if None.
        sampled: whether the rows are a stream.
    """

    source: TextSource
    on_bad_row: OnBadRow
    max_rows: int | None
    sampled: bool = False

    @cached_property
    def sample(self) -> dict[int, str]:
        """The validation texts of a stream without a validation split, by their ids."""
        texts: dict[int, str] = {}
        characters = 0
        rows = islice(self.source.rows("train"), min(self.max_rows or _HEAD, _HEAD))
        for text in GoodTexts(rows, self.on_bad_row):
            texts.setdefault(text_id(text), text)
            characters += len(text)
            if characters > _HEAD_CHARACTERS:
                break
        count = max(1, len(texts) // 10) if len(texts) > 1 else 0
        chosen = set(sorted(texts)[:count])
        return {identity: text for identity, text in texts.items() if identity in chosen}

    @cached_property
    def validation_ids(self) -> frozenset[int]:
        """The ids of the texts in the source's own validation split."""
        rows = islice(self.source.rows("validation"), self.max_rows)
        return frozenset(text_id(text) for text in GoodTexts(rows, self.on_bad_row))

    def read(self, split: Split, report: Callable[[str], Any] | None = None) -> Iterator[str]:
        """The texts of a split; `report` gets a line about skipped rows."""
        return (text for _, text in self.numbered(split, None, report))

    def numbered(
        self, split: Split, shard: Shard | None, report: Callable[[str], Any] | None = None
    ) -> Iterator[tuple[int, str]]:
        """The texts of a split, or of a shard of it, each with its row's number in it, from 0."""
        has_validation = "validation" in self.source.splits
        samples = self.sampled and not has_validation
        compares = has_validation and not self.sampled and split == "train"
        if samples and split == "validation":
            texts_held_out = list(self.sample.values())
            shard = shard or Shard()
            for row in range(shard.first, len(texts_held_out), shard.readers):
                yield row // shard.readers, texts_held_out[row]
            return
        source_split = split if has_validation else "train"
        if shard:
            shard = shard._replace(stop=self.max_rows)
            rows = islice(self.source.rows(source_split, shard), shard.most)
        else:
            rows = islice(self.source.rows(source_split), self.max_rows)
        texts = GoodTexts(rows, self.on_bad_row)
        start = shard.start if shard else 0
        left_out = 0
        for text in texts:
            if samples:
                wanted = text_id(text) not in self.sample
            elif compares:
                wanted = text_id(text) not in self.validation_ids
                left_out += not wanted
            else:
                of_validation = split == "validation"
                wanted = has_validation or held_out(text, VALIDATION_PERCENT) == of_validation
            if wanted:
                yield start + texts.read - 1, text
        if report and left_out:
            report(f"{left_out:,} training texts left out: they are validation texts too")
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
            **({"apart": True} if "validation" in self.source.splits else {}),
        }


def validation_mask(ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows are kept for validation, given ids of what must not be in both splits.

    1 % of the distinct ids; about 100 if there are 1,000 to 10,000, and 10 % if there are fewer,
    but at least two of four or more. The same id is always on the same side.

    Args:
        ids: a hash of each row's query, (N,).
    """
    distinct = np.unique(ids)
    least = -(-100 * VALIDATION_QUERIES // max(1, len(distinct)))
    percent = min(10, max(VALIDATION_PERCENT, least))
    chosen = distinct[distinct % 100 < percent]
    if len(chosen) < 2 <= len(distinct) // 2:
        chosen = distinct[np.argsort(distinct % 100, kind="stable")[:2]]
    return np.isin(ids, chosen)


def shared_text_groups(
    query_ids: NDArray[np.int64], positives: NDArray[np.int64]
) -> NDArray[np.int64]:
    """An id for each row (N,), equal for rows that share a text, directly or through other rows.

    It is the smallest id of the group's queries; for a row that shares nothing, its query's id.

    Args:
        query_ids: a hash of each row's query, (N,).
        positives: pairs of a row's number and the hash of one of its positives, (P, 2).
    """
    texts, place = np.unique(np.concatenate([query_ids, positives[:, 1]]), return_inverse=True)
    queries, others = place[: len(query_ids)], place[len(query_ids) :]
    ends = np.stack([queries[positives[:, 0]], others])  # (2, P), the ends of an edge
    groups = np.arange(len(texts))
    while True:
        joined = groups.copy()
        for end in ends:
            np.minimum.at(joined, end, groups[ends].min(axis=0))
        joined = joined[joined]  # halves the distance to the smallest id
        if (joined == groups).all():
            break
        groups = joined
    smallest = np.full(len(texts), np.iinfo(np.int64).max)
    np.minimum.at(smallest, groups[queries], query_ids)
    return smallest[groups[queries]]


def held_out_rows(
    query_ids: NDArray[np.int64], positives: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], int]:
    """Which rows are kept for validation, and how many of them share a text with training.

    Rows that share a query or a positive stay together. If so many do that nothing would be left
    to validate on, for example if the positives are a few labels, only rows with the same query do.

    Args:
        query_ids: a hash of each row's query, (N,).
        positives: pairs of a row's number and the hash of one of its positives, (P, 2).
    """
    groups = shared_text_groups(query_ids, positives)
    _, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    small = sizes[place] <= max(2, len(groups) // _LARGE_GROUP)
    mask = np.zeros(len(groups), bool)
    mask[small] = validation_mask(groups[small])
    by_query = validation_mask(query_ids)
    if mask.sum() < 2 <= by_query.sum():
        mask = by_query
    rows, texts = positives.T
    trained = np.concatenate([query_ids[~mask], texts[~mask[rows]]])
    return mask, int((rows_with(trained, query_ids, positives) & mask).sum())


def rows_with(
    texts: NDArray[np.int64], query_ids: NDArray[np.int64], positives: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which rows (N,) have one of these texts as their query or a positive.

    Args:
        texts: hashes of the texts, (T,).
        query_ids: a hash of each row's query, (N,).
        positives: pairs of a row's number and the hash of one of its positives, (P, 2).
    """
    found = np.isin(query_ids, texts)
    found[positives[np.isin(positives[:, 1], texts), 0]] = True
    return found
