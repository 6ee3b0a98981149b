"""Lines -> records of comma- or tab-separated values; an open quote spoils one line only."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

UNCLOSED = "a quote that is not closed where its field ends"


class Record(NamedTuple):
    """The fields of a record, or the reason why it cannot be read."""

    line: int  # the number of its first line, from 1
    fields: list[str]
    problem: str = ""


def separated_values(lines: Iterable[str], delimiter: str) -> Iterator[Record]:
    r"""The records of RFC 4180: a field that holds quotes or line ends stands between quotes.

    A quote that is never closed, or closed in the middle of a field, would turn many lines into
    one field. Here its first line becomes a record with a problem, and reading continues with the
    next line.

    Args:
        lines: lines, each with its line end.
        delimiter: the character between fields.

    >>> for record in separated_values(['a,"b\n', "c,d\n"], ","):
    ...     print(record)
    Record(line=1, fields=[], problem='a quote that is not closed where its field ends')
    Record(line=2, fields=['c', 'd'], problem='')
    """
    csv.field_size_limit(2**31 - 1)  # the default refuses articles above 131,072 characters
    source = _Lines(lines)
    records = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        source.taken.clear()
        line = source.line + 1  # a record may hold several lines
        try:
            yield Record(line, next(records))
        except StopIteration:
            return
        except csv.Error as error:
            quotes = '"' in source.taken[0]
            yield Record(line, [], UNCLOSED if quotes else f"broken CSV ({error})")
            source.give_back(len(source.taken) - 1)


class _Lines(Iterator[str]):
    """Lines; the ones taken last can be given back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._again: deque[str] = deque()
        self.taken: list[str] = []
        self.line = 0  # the number of the last one taken

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.taken.append(line)
        self.line += 1
        return line

    def give_back(self, count: int) -> None:
        self._again.extendleft(reversed(self.taken[len(self.taken) - count :]))
        self.line -= count
