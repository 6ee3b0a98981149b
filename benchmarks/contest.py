"""Contestants take turns, A B A B, on the same work: a machine that slows down slows both."""

from __future__ import annotations

import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llm2vec_pl.errors import UserError

HERE = Path(__file__).parent
REFERENCE, SENTENCE_TRANSFORMERS = "llm2vec", "sentence-transformers"

WHAT_TO_INSTALL = {
    REFERENCE: 'llm2vec==0.2.3 "transformers<4.45"',
    SENTENCE_TRANSFORMERS: "sentence-transformers peft",
}


class Result(NamedTuple):
    """The time and the memory that one contestant took.

    Args:
        name: name of the contestant.
        seconds: seconds of each round.
        peak: peak memory in MiB of the GPU or of the whole process, the highest of all rounds.
        loaded: memory in MiB with the model loaded, before the work.
    """

    name: str
    seconds: list[float]
    peak: float
    loaded: float

    @property
    def median(self) -> float:
        """The median of the seconds."""
        return statistics.median(self.seconds)


def contest(job: dict[str, Any], against: str | None, rounds: int) -> list[Result]:
    """Runs this package, and another if one is named, in turn.

    Args:
        job: the work, as described in `contestants`.
        against: an interpreter that has llm2vec, or "sentence-transformers"; None runs only ours.
        rounds: number of measurements of each. A contestant runs once more before it is measured
            the first time, or after it has given its memory to the other one.

    Returns:
        The results, ours first.

    Raises:
        UserError: if a contestant cannot run.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = [("llm2vec_pl", sys.executable, "ours.py")]
        if against == SENTENCE_TRANSFORMERS:
            names.append((against, sys.executable, "sentence_transformers.py"))
        elif against:
            names.append((REFERENCE, against, "reference.py"))
        workers: list[Worker] = []
        try:
            for number, (name, python, file) in enumerate(names):
                own = {**job, "embeddings": f"{folder}/{number}.npy"}
                workers.append(Worker(name, python, HERE / "contestants" / file, own, Path(folder)))
            measured = [[worker.measure() for worker in workers] for _ in range(rounds)]
        finally:
            for worker in workers:
                worker.close()
        if job["work"] == "encode" and len(workers) > 1:
            _print_agreement(Path(folder))
    return [
        Result(
            worker.name,
            [row[i]["seconds"] for row in measured],
            max(row[i]["peak"] for row in measured),
            worker.loaded,
        )
        for i, worker in enumerate(workers)
    ]


class Worker:
    """A contestant in its own process, which waits until it is asked.

    Args:
        name: its name, for messages.
        python: the interpreter.
        contestant: its file.
        job: what it does.
        folder: the folder for the job and for what the process prints.
        script: what runs the contestant.
    """

    def __init__(
        self,
        name: str,
        python: str,
        contestant: Path,
        job: dict[str, Any],
        folder: Path,
        script: str = "worker.py",
    ) -> None:
        self.name = name
        self._printed = folder / f"{name}.log"
        file = folder / f"{name}.json"
        file.write_text(json.dumps(job))
        command = [python, str(HERE / script), str(contestant), str(file)]
        try:
            with self._printed.open("w") as printed:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=printed,
                    text=True,
                )
        except OSError as error:
            raise UserError(
                "--against expects an interpreter that has llm2vec, such as reference/bin/python, "
                f"or {SENTENCE_TRANSFORMERS}, but {python} cannot be run: {error.strerror}."
            ) from error
        self.first = self._answer()
        self.loaded = self.first["loaded"]

    def measure(self) -> dict[str, float]:
        """The seconds and the peak memory of doing the work once."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, and the answer says why
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise UserError(f"{self.name} ended before it answered: {self._why()}")
        answer: dict[str, float] = json.loads(line)
        return answer

    def _why(self) -> str:
        if self._process.wait() == -signal.SIGKILL:
            return (
                "it was killed, as happens when memory runs out. Set a smaller --batch_size, or "
                "switch gradient checkpointing on, which applies to both contestants."
            )
        last = self._printed.read_text().strip().splitlines()[-1:] or ["nothing was printed"]
        needed = WHAT_TO_INSTALL.get(self.name)
        hint = f" It needs an environment with {needed}." if needed else ""
        return f"{last[0]}.{hint}"


def _print_agreement(folder: Path) -> None:
    import numpy as np

    ours, theirs = (np.load(folder / f"{i}.npy") for i in (0, 1))
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines = (ours * theirs).sum(axis=1) / norms
    print(f"cosine of their embeddings: median {np.median(cosines):.6f}, least {cosines.min():.6f}")


def ratios(results: Sequence[Result]) -> tuple[float, float, float] | None:
    """How many times faster the first is: the median, the lowest and the highest of the rounds."""
    if len(results) < 2:
        return None
    each = [b / a for a, b in zip(results[0].seconds, results[1].seconds, strict=True)]
    return statistics.median(each), min(each), max(each)
