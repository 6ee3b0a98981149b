"""Errors that a user can put right, and how a command shows them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class UserError(ValueError):
    """An option or a row of data that cannot be used, with what to do about it.

    The command line prints its message without a traceback and exits with code 2; any other
    exception is taken for a bug and keeps its traceback.

    A message names arguments in backquotes, with a value as Python has it: `temperature`,
    `dtype="bfloat16"`, `Trainer(devices=2)`, and `data.max_length` for one that another class has
    too. The command line makes flags of them.
    """


class Faults:
    """Collects what is wrong, so that all of it is said together."""

    def __init__(self) -> None:
        self._found: list[str] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """A `UserError` inside is kept for later."""
        try:
            yield
        except UserError as error:
            self._found.append(str(error))

    def of(self, check: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Keeps what a check finds wrong with its arguments."""
        with self.noted():
            check(*args, **kwargs)

    def raise_all(self) -> None:
        """Raises one `UserError` that says all that was found, if anything was."""
        if self._found:
            raise UserError("\n".join(self._found))


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns a `UserError` into a message and exit code 2; a bug keeps its traceback."""
    try:
        yield
    except ValueError as error:
        # jsonargparse wraps what a constructor raises.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if cause is None:
            raise
        fail(cause)


def fail(message: object) -> NoReturn:
    """Prints what the user can put right and exits with code 2."""
    print(f"error: {_in_the_words_of_the_command_line(str(message))}", file=sys.stderr)
    raise SystemExit(2)


def print_errors_with(words: Callable[[str], str]) -> None:
    """Has `fail` print messages in a command line's words: flags where the library has arguments.

    Args:
        words: a message in other words.
    """
    global _in_the_words_of_the_command_line
    _in_the_words_of_the_command_line = words


_in_the_words_of_the_command_line: Callable[[str], str] = str
