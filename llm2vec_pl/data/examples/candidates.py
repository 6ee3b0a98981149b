"""Records -> queries with positives and negatives; a bad record is an error or is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from llm2vec_pl.data.examples.example import Candidates
from llm2vec_pl.data.files import OnBadRow, Row, no_column, problem_of, text_id
from llm2vec_pl.errors import UserError

_MISSING = "no "
LONG_TEXT = 100_000  # characters


class Columns(NamedTuple):
    """The columns that hold a record's texts."""

    query: str = "query"
    positive: str = "positive"
    negative: str = "negative"


class BadRow(Exception):  # noqa: N818 - never leaves this file
    """Why a record is not an example."""


class GoodCandidates:
    """The examples among records; the other records are counted, or the first is an error.

    A positive or a negative is a string or a list of strings; records may differ in this. Null and
    empty negatives are ignored, as is a negative that is one of its row's positives.

    Args:
        rows: the records, read once.
        columns: the columns of the query, the positives and the negatives.
        on_bad_row: `error` or `skip`.
        name: name of the rows' source, for errors about all of it.

    Raises:
        UserError: for a bad row if `on_bad_row` is `error`, or if no row has one of the columns.
    """

    def __init__(
        self, rows: Iterable[Row], columns: Columns, on_bad_row: OnBadRow, name: str
    ) -> None:
        self.rows = rows
        self.columns = columns
        self.on_bad_row = on_bad_row
        self.name = name
        self.read = 0
        self.kept = 0
        self.skipped: Counter[str] = Counter()
        self.first_skipped = ""
        self.counts: Counter[str] = Counter()
        self._left_out: dict[str, int] = {}  # in the row just read
        self._keys: dict[str, None] = {}  # of all records, in order
        self._queries: set[int] = set()

    def __iter__(self) -> Iterator[Candidates]:
        for row in self.rows:
            self.read += 1
            try:
                found = self._candidates(row.value)
            except BadRow as problem:
                if self.on_bad_row == "error":
                    raise self._error(row, str(problem)) from None
                self.first_skipped = self.first_skipped or row.place
                self.skipped[str(problem)] += 1
                continue
            self.kept += 1
            self._count(found)
            yield found
        self._require_columns()

    @property
    def notes(self) -> list[str]:
        """What was left out and what is odd, one line each."""
        notes = []
        if self.skipped:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.skipped.most_common())
            notes.append(
                f"skipped {self.skipped.total():,} of {self.read:,} rows: {kinds} "
                f"(first: {self.first_skipped})"
            )
        notes += [f"{count:,} {what}" for what, count in sorted(self.counts.items())]
        return notes

    def _candidates(self, record: object) -> Candidates:
        if not isinstance(record, dict):
            raise BadRow(problem_of(record) or "not a record")
        self._keys.update(dict.fromkeys(record))
        for column in (self.columns.query, self.columns.positive):
            if column not in record or record[column] == []:
                raise BadRow(f"{_MISSING}{column}")
        query = record[self.columns.query]
        if problem := problem_of(query):
            raise BadRow(f"{self.columns.query} {problem}")
        positives, blank_positives = _texts(record, self.columns.positive)
        if not positives:
            raise BadRow(f"{self.columns.positive} null or empty")
        negatives, blank_negatives = _texts(record, self.columns.negative)
        unlike = [text for text in negatives if text not in positives]
        self._left_out["null or empty texts"] = blank_positives + blank_negatives
        self._left_out["negatives that are their own row's positive"] = len(negatives) - len(unlike)
        return Candidates(query, positives, unlike)

    def _count(self, found: Candidates) -> None:
        for what, count in self._left_out.items():
            if count:
                self.counts[f"{what} left out"] += count
        identity = text_id(found.query)
        if identity in self._queries:
            self.counts["rows have the query of an earlier row"] += 1
        self._queries.add(identity)
        for what, some in (("positives", found.positives), ("negatives", found.negatives)):
            if len(some) > 1:
                self.counts[f"rows have several {what}"] += 1
        texts = (found.query, *found.positives, *found.negatives)
        if any(len(text) > LONG_TEXT for text in texts):
            self.counts[
                f"rows hold a text above {LONG_TEXT:,} characters, cut to the encoder's max_length"
            ] += 1

    def _error(self, row: Row, problem: str) -> UserError:
        if self.read == 1 and problem.startswith(_MISSING) and isinstance(row.value, dict):
            column = problem.removeprefix(_MISSING)
            role = next(r for r, c in self.columns._asdict().items() if c == column)
            return no_column(row.place, column, row.value, f"{role}_column")
        return UserError(
            f"{row.place}: expected a {self.columns.query} and a {self.columns.positive}, "
            f'but got {problem}. Correct the row, or set `on_bad_row="skip"`.'
        )

    def _require_columns(self) -> None:
        if not self._keys:
            return
        for role, column in self.columns._asdict().items():
            optional = role == "negative" and column == Columns().negative
            if column not in self._keys and not optional:
                raise no_column(self.name, column, self._keys, f"{role}_column")


def _texts(record: dict[str, object], column: str) -> tuple[list[str], int]:
    """The texts of a column, and how many blank ones were left out; a single null is no text."""
    value = record.get(column)
    if value is None:
        return [], 0
    items = value if isinstance(value, list) else [value]
    texts: list[str] = []
    for item in items:
        problem = problem_of(item)
        if problem is None:
            texts.append(item)  # type: ignore[arg-type]
        elif problem not in ("null", "empty"):
            raise BadRow(f"{column} {problem}")
    return texts, len(items) - len(texts)
