"""How far the embedding of a corpus is: a bar in a terminal, a line a minute elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tqdm import tqdm

from llm2vec_pl.training import duration, on_terminal, say

SECONDS = 60.0
"""Time between two lines."""


class Progress:
    """Counts rows and says how many there were, rows per second and the time left.

    Args:
        done: rows that were there before.
        count: gives the number of all rows, or None; called in a thread, since it may take a while.
        ranks: processes that work at the same pace; only this one's rows are counted.
        clock: gives the time in seconds.
        write: called with each line, if no terminal shows a bar.
    """

    def __init__(
        self,
        done: int,
        count: Callable[[], int | None],
        ranks: int = 1,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], object] | None = None,
    ) -> None:
        self.before = done
        self.own = 0
        self.ranks = ranks
        self.total: int | None = None
        self._clock, self._write = clock, write or say
        self._start = self._said = clock()
        self._bar = tqdm(initial=done, unit=" rows") if write is None and on_terminal() else None
        self._counter = threading.Thread(target=self._count, args=(count,), daemon=True)
        self._counter.start()

    def advance(self, rows: int) -> None:
        """Counts rows of this process."""
        self.own += rows
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.update(rows * self.ranks)
        elif self._clock() - self._said >= SECONDS or self.own == rows:
            self._write(self.line)
            self._said = self._clock()

    def close(self) -> None:
        """Leaves the terminal's next line free."""
        if self._bar is not None:
            self._bar.close()

    @property
    def rate(self) -> float:
        """Rows per second of all processes."""
        return self.own * self.ranks / max(1e-9, self._clock() - self._start)

    @property
    def line(self) -> str:
        """Such as `2,000 of about 9,000 rows, 350 rows/s, 20 s left`."""
        done = self.before + self.own * self.ranks
        of = f" of about {self.total:,}" if self.total else ""
        parts = [f"{done:,}{of} rows, {self.rate:,.0f} rows/s"]
        if self.total and self.total > done and self.own:
            parts.append(f"{duration((self.total - done) / self.rate)} left")
        return ", ".join(parts)

    def _count(self, count: Callable[[], int | None]) -> None:
        try:
            self.total = count()
        except Exception:  # whoever reads the rows says what is wrong with them
            self.total = None
