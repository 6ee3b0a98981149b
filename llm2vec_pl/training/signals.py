"""Signals that ask a run to stop, remembered so that it can stop between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class StopSignals:
    """Notes SIGTERM, Ctrl-C and SLURM's SIGUSR1 instead of letting them end a step halfway.

    A second signal of any kind has its ordinary effect, for users who cannot wait. SIGUSR1 is noted
    only if Lightning handles it: Lightning saves a checkpoint and requeues the SLURM job, which
    `then` does between two steps.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def watch(self) -> None:
        """Begins to note signals; does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        self.received = None
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            before = signal.getsignal(name)
            if name is signal.SIGUSR1 and not callable(before):
                continue
            self._before[name] = before
            signal.signal(name, self._note)

    def leave(self) -> None:
        """Restores the handlers that were there before."""
        for name, handler in self._before.items():
            if threading.current_thread() is threading.main_thread():
                signal.signal(name, handler)
        self._before.clear()

    def then(self) -> Callable[[], Any] | None:
        """What Lightning does on SIGUSR1 under SLURM, if that signal was received."""
        handler = self._before.get(signal.SIGUSR1)
        if self.received is not signal.SIGUSR1 or not callable(handler):
            return None
        return lambda: handler(signal.SIGUSR1, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number)
        if self.received is None:
            self.received = name
            return
        handler = signal.default_int_handler if name is signal.SIGINT else signal.SIG_DFL
        signal.signal(name, handler)
        signal.raise_signal(name)
