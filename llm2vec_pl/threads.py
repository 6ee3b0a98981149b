"""As many threads as cores may run them: torch counts the machine's, a container has fewer.

Threads beyond that wait for each other's turn at the end of each operation, which makes a CPU
several times slower.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

CONTROL_GROUPS = Path("/sys/fs/cgroup")
CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables by which a user, or a launcher, says how many threads there shall be."""


def usable_cores(root: Path = CONTROL_GROUPS) -> int:
    """Cores that this process may use: by its affinity, and by the quota of its control group.

    Args:
        root: where control groups are mounted; where nothing is, as on macOS, there is no quota.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _quota(root)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def limit_threads() -> None:
    """Lowers torch's number of threads to the usable cores; never raises it.

    Nothing happens where `OMP_NUM_THREADS` or `MKL_NUM_THREADS` says how many.
    """
    if any(os.environ.get(name) for name in CHOSEN):
        return
    cores = usable_cores()
    if cores < torch.get_num_threads():
        torch.set_num_threads(cores)


def _quota(root: Path) -> float | None:
    """Cores by the quota of the control group, version 2 or 1; None where there is no limit."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((root / file).read_text() for file in files).split()
            cores = int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # no such file; "max"
            continue
        return cores if cores > 0 else None  # version 1 says -1 for no limit
    return None
