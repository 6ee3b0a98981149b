"""A process's resident memory on a CPU: tensors, libraries, and what the heap keeps."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from llm2vec_pl.training.memory.step import Memory, gib

MMAP_THRESHOLD = "MALLOC_MMAP_THRESHOLD_"
IN_THE_HEAP = 32 * 2**20
"""Size of the largest block that glibc may keep in its heap; larger ones are returned at once."""

SPREAD = 2.5
"""How much more memory a fragmented heap takes for what a step makes and frees, at most. Steps of
2,000 tokens with a decoder of 135 million weights took 2.2 and 2.4 times as much, and 1.0 with
all blocks returned at once."""


def resident_now() -> int | None:
    """The resident bytes of this process; None if unknown."""
    return _status("VmRSS")


def resident_peak() -> int | None:
    """The most bytes that this process has had resident so far; None if unknown."""
    return _status("VmHWM")


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith(name)), None)


def heap_keeps(block: int) -> bool:
    """Whether the heap keeps free blocks of this many bytes between others that are in use."""
    if platform.libc_ver()[0] != "glibc" or "malloc" in os.environ.get("LD_PRELOAD", ""):
        return False
    threshold = os.environ.get(MMAP_THRESHOLD, "")
    return block < (int(threshold) if threshold.isdigit() else IN_THE_HEAP)


def resident_after(memory: Memory, now: int, block: int) -> tuple[int, int]:
    """The process's resident bytes in a step: about, and at most.

    Args:
        memory: the step's memory, including the weights that are loaded already.
        now: resident bytes before the step.
        block: bytes of a tensor of states, (T, D).
    """
    about = now + memory.total - memory.frozen - memory.trained
    passing = (memory.activations or 0) + memory.transient
    return about, about + (round((SPREAD - 1) * passing) if heap_keeps(block) else 0)


def resident_line(now: int, about: int, most: int, free: int | None) -> str:
    """A line with these numbers, in GiB, and with what is free."""
    line = f"the process has {gib(now)} GiB with its libraries and will have about {gib(about)}"
    if most > about:
        line += (
            f", at most {gib(most)} if its heap fragments ({MMAP_THRESHOLD}=1048576 in the "
            "environment avoids that, and is a little slower)"
        )
    return line if free is None else f"{line}, of {gib(now + free)} GiB free"
