"""One contestant of a benchmark in its own interpreter, which need not have this package.

python worker.py CONTESTANT.py JOB.json: calls the contestant's `build(job)`, which returns a
function without arguments. Calls that once for each input line, and answers with the seconds and
the memory that it took.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, TextIO

MEBI = 2**20
MUCH = 2048  # MiB


def main(contestant: str, job: str) -> None:
    """Answers until its input ends; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # Replaces this folder, whose files are not modules of the contestant.
    sys.path[0] = str(Path(__file__).parents[1])
    spec = importlib.util.spec_from_file_location("contestant", contestant)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run = module.build(json.loads(Path(job).read_text()))
    _say(answers, {"loaded": _memory_now()})
    is_cold = True
    for _ in sys.stdin:
        if is_cold:
            run()  # lets allocators fill their pools and kernels be chosen
        _forget_peak()
        started = time.perf_counter()
        run()
        _synchronise()
        _say(answers, {"seconds": time.perf_counter() - started, "peak": _peak_memory()})
        is_cold = _give_back()


def _say(answers: TextIO, what: dict[str, Any]) -> None:
    answers.write(json.dumps(what) + "\n")


def _cuda() -> Any:
    torch: Any = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_available() else None


def _synchronise() -> None:
    if cuda := _cuda():
        cuda.synchronize()


def _memory_now() -> float:
    """Memory in MiB: of the GPU if there is one, else of the process."""
    if cuda := _cuda():
        return float(cuda.memory_allocated() / MEBI)
    return _of_process("VmRSS")


def _peak_memory() -> float:
    if cuda := _cuda():
        return float(cuda.max_memory_allocated() / MEBI)
    return _of_process("VmHWM")


def _forget_peak() -> None:
    if cuda := _cuda():
        cuda.reset_peak_memory_stats()
    elif (file := Path("/proc/self/clear_refs")).exists():
        file.write_text("5")


def _give_back() -> bool:
    """Gives free memory back for the other contestant, if it is much; whether it did."""
    if _cuda() or sys.platform != "linux" or _of_process("VmRSS") < MUCH:
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    return trim is not None and bool(trim(0))


def _of_process(entry: str) -> float:
    status = Path("/proc/self/status")
    if not status.exists():  # macOS: the highest so far, in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEBI
    line = next(line for line in status.read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
