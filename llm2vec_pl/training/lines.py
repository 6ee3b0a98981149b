"""Lines for a log or a pipe, where there is no terminal to draw a progress bar in."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llm2vec_pl.training.pace import duration

SECONDS = 60.0
"""Time between two lines."""


def on_terminal() -> bool:
    """Whether what is printed goes to a terminal, not to a file or another program."""
    return sys.stdout is not None and sys.stdout.isatty()


def say(line: str) -> None:
    """Prints a line that a reader of the file or pipe sees at once."""
    print(line, flush=True)


@contextmanager
def still_at(
    what: str, seconds: float = SECONDS, write: Callable[[str], object] = say
) -> Iterator[None]:
    """Where there is no terminal, says every minute that the work inside goes on.

    Args:
        what: is done, to begin each line with.
        seconds: time between two lines.
        write: called with each line.
    """
    if on_terminal():
        yield
        return
    over, start = threading.Event(), time.monotonic()

    def tell() -> None:
        while not over.wait(seconds):
            write(f"{what}: {duration(time.monotonic() - start)} so far")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
