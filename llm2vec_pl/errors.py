"""Errors that a user can put right, and how a command shows them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class UserError(ValueError):
    """An option or a row of data that cannot be used; the message says what to do about it.

    The command line prints its message without a traceback and exits with code 2; any other
    exception is taken for a bug and keeps its traceback.

    Messages name arguments in backquotes and write values as Python does: `temperature`,
    `dtype="bfloat16"`, `Trainer(devices=2)`. If another class has an argument of the same name, the
    message says whose it means: `data.max_length`. The command line turns these into flags.
    """


class Faults:
    """Collects errors, so that they can be reported all at once."""

    def __init__(self) -> None:
        self._found: list[str] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Keeps a `UserError` that is raised inside for later."""
        try:
            yield
        except UserError as error:
            self._found.append(str(error))

    def of(self, check: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Runs a check and keeps the `UserError` that it raises, if any."""
        with self.noted():
            check(*args, **kwargs)

    def raise_all(self) -> None:
        """Raises one `UserError` with all messages that were kept, if there are any."""
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
    """Prints an error that the user can put right, and exits with code 2."""
    print(f"error: {_in_the_words_of_the_command_line(str(message))}", file=sys.stderr)
    raise SystemExit(2)


def print_errors_with(words: Callable[[str], str]) -> None:
    """Has `fail` translate messages for a command line: flags in place of arguments.

    Args:
        words: translates a message.
    """
    global _in_the_words_of_the_command_line
    _in_the_words_of_the_command_line = words


_in_the_words_of_the_command_line: Callable[[str], str] = str
