"""Recipes as processes that can be killed."""

from __future__ import annotations

import csv
import os
import signal
import time
from pathlib import Path

from forked import ALONE, free_port, start_recipe, torchrun


class Run:
    """A recipe in `cwd` with these flags, on 1 or more ranks, as torchrun starts them.

    What they print is added to `output.txt` there.
    """

    def __init__(
        self,
        recipe: str,
        flags: list[str],
        cwd: Path,
        ranks: int = 1,
        environment: dict[str, str] | None = None,
    ) -> None:
        port, output = free_port(), str(cwd / "output.txt")
        variables = {**ALONE, "LLM2VEC_PL_CACHE": str(cwd / "cache"), **(environment or {})}
        self.processes = [
            start_recipe(
                recipe,
                flags,
                cwd,
                {**variables, **(torchrun(rank, ranks, port) if ranks > 1 else {})},
                output,
                output,
            )
            for rank in range(ranks)
        ]

    def wait(self, seconds: float = 240) -> list[int | None]:
        """Exit codes; None of a process that still runs."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def send(self, number: signal.Signals) -> None:
        """A signal to all processes that are alive."""
        for process in self.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    def kill(self) -> None:
        """SIGKILL to all of them; returns when they are gone."""
        self.send(signal.SIGKILL)
        for process in self.processes:
            process.join()


def rows(folder: Path, column: str) -> dict[int, str]:
    """A column of `metrics.csv` by step, to the last digit; the last entry of each step."""
    file = folder / "metrics.csv"
    if not file.is_file():
        return {}
    with file.open(newline="") as lines:
        return {
            int(row["step"]): row[column]
            for row in csv.DictReader(lines)
            if row.get(column) and row.get("step")
        }
