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
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)
