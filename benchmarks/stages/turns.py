"""One side of a stage in its own interpreter, which need not have this package.

python turns.py SIDE.py JOB.json: calls the side's `run(job, turns)`, which takes one training step
for each input line. Each answer is a line of JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO


class Turns:
    """The other end of the contest: when to take a step, and whom to tell.

    Args:
        asked: a line for each step.
        answers: where the answers go.
    """

    def __init__(self, asked: TextIO, answers: TextIO) -> None:
        self._asked = asked
        self._answers = answers
        self._started = 0.0

    def ready(self, held_out: float) -> None:
        """Says that all is loaded, and the loss on held-out batches before training."""
        self._say({"loaded": memory("VmRSS"), "held_out": held_out})

    def wait(self) -> None:
        """Returns when it is this side's turn; ends the process if nobody asks any more."""
        if not self._asked.readline():
            sys.exit(0)
        self._started = time.perf_counter()

    def done(self, loss: float) -> None:
        """Says what the step cost, and its loss."""
        seconds = time.perf_counter() - self._started
        self._say({"loss": loss, "seconds": seconds, "peak": memory("VmHWM")})

    def end(self, held_out: float) -> None:
        """Says the loss on held-out batches after training, when everything is saved."""
        self._say({"held_out": held_out})

    def _say(self, what: dict[str, Any]) -> None:
        self._answers.write(json.dumps(what) + "\n")


def memory(entry: str) -> float:
    """Memory in MiB: the peak of the GPU if there is one, else what the system says."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated() / 2**20)
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    line = next(line for line in status.read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) / 1024


def main(side: str, job: str) -> None:
    """Runs a side; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.path[0] = str(Path(__file__).parents[2])  # this folder's files are not the side's modules
    spec = importlib.util.spec_from_file_location("side", side)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.run(json.loads(Path(job).read_text()), Turns(sys.stdin, answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
