"""How fast a training goes, and how long it will still take."""

from __future__ import annotations

from collections.abc import Callable


class Pace:
    """Steps and tokens over time; the time of validations is kept apart.

    Args:
        step: the number of steps before the first one that is counted.
        clock: gives the time in seconds.
    """

    def __init__(self, step: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.first_step = self._step = step
        self._start = clock()
        self._after_first: float | None = None  # when the first step ended, which is slower
        self._paused: float | None = None
        self._apart = 0.0  # seconds of validation since the last line
        self._line = self._start
        self._tokens = 0

    def pause(self) -> None:
        """Notes that something other than training begins."""
        if self._paused is None:
            self._paused = self._clock()

    def go_on(self) -> None:
        """Notes that training goes on."""
        if self._paused is not None:
            self._apart += self._clock() - self._paused
            self._paused = None

    def count(self, tokens: int, step: int) -> bool:
        """Counts the tokens of a batch after which `step` steps are done.

        Returns:
            Whether a step has ended with it; otherwise its gradients are being accumulated.
        """
        self._tokens += tokens
        if self._after_first is None and step > self.first_step:
            self._after_first = self._clock()
        ended, self._step = step > self._step, step
        return ended

    def tokens_per_second(self) -> float:
        """Tokens per second of training since the last line; begins to count anew."""
        now = self._clock() if self._paused is None else self._paused
        seconds = now - self._line - self._apart
        rate = self._tokens / seconds if seconds > 0 else 0.0
        self._line, self._apart, self._tokens = now, 0.0, 0
        return rate

    def seconds_left(self, step: int, steps: int) -> float:
        """How long the rest takes at the pace so far, validations included.

        Args:
            step: the number of steps that are done, at least one more than at first.
            steps: the number of all steps.
        """
        done = step - self.first_step
        if self._after_first is None or done < 2:  # nothing but the first step is known
            return (self._clock() - self._start) / max(1, done) * (steps - step)
        return (self._clock() - self._after_first) / (done - 1) * (steps - step)


def duration(seconds: float) -> str:
    """A time in its two largest units.

    >>> duration(48), duration(600), duration(5 * 3600 + 60), duration(3 * 86400)
    ('48 s', '10 min', '5 h 1 min', '3 d 0 h')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
