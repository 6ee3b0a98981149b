"""Errors that a user can put right, and how a command shows them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class UserError(ValueError):
    """An option or a row of data that cannot be used, with what to do about it.

    The command line prints its message without a traceback and exits with code 2; any other
    exception is taken for a bug and keeps its traceback.
    """


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
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)
