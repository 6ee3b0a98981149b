"""Tests of many cases, of which `make test` runs the first ones and `make test-all` all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow_and_exhaustive(cases: Iterable[Any], slow: int = 1) -> list[Any]:
    """Parameters of a test, so many of them slow and the others exhaustive."""
    marks = pytest.mark.slow, pytest.mark.exhaustive
    return [pytest.param(case, marks=marks[place >= slow]) for place, case in enumerate(cases)]
