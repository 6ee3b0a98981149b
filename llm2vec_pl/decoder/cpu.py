"""Whether this CPU multiplies in bfloat16, and how many threads it can run."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

import torch

CONTROL_GROUPS = Path("/sys/fs/cgroup")


CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables with which a user or a launcher sets the number of threads."""


def multiplies_in_bfloat16() -> bool:
    """Whether the CPU has instructions that multiply matrices in bfloat16.

    AVX-512 BF16 or AMX on x86, BF16 on ARM. Elsewhere torch computes in float32 and casts, so
    bfloat16 saves memory but no time.
    """
    if not torch.backends.mkldnn.is_available():  # oneDNN, through which torch uses them
        return False
    if platform.machine().lower() in ("aarch64", "arm64"):
        # On x86 this is true for any AVX-512, which only emulates bfloat16.
        return _ask(torch.ops.mkldnn, "_is_mkldnn_bf16_supported")
    return any(
        _ask(torch.cpu, name) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def multiplies_in_int8() -> bool:
    """Whether the CPU adds products of int8 numbers in 32 bits at once: AVX-512 VNNI on x86."""
    engines = torch.backends.quantized.supported_engines
    return "onednn" in engines and _ask(torch.cpu, "_is_vnni_supported")


def _ask(place: object, question: str) -> bool:
    """What a function of torch answers; false if this version of torch does not have it."""
    try:
        return bool(getattr(place, question)())
    except (AttributeError, RuntimeError):
        return False


def usable_cores(root: Path = CONTROL_GROUPS) -> int:
    """How many cores this process may use, by its affinity and its control group's quota.

    Args:
        root: where control groups are mounted. If nothing is, as on macOS, there is no quota.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _quota(root)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def limit_threads() -> None:
    """Lowers torch's number of threads to the usable cores; never raises it.

    torch counts the machine's cores, but a container may use fewer. Surplus threads wait for each
    other at the end of each operation, which makes a CPU several times slower.

    Does nothing if `OMP_NUM_THREADS` or `MKL_NUM_THREADS` is set.
    """
    if any(os.environ.get(name) for name in CHOSEN):
        return
    cores = usable_cores()
    if cores < torch.get_num_threads():
        torch.set_num_threads(cores)


def _quota(root: Path) -> float | None:
    """The control group's quota in cores, version 2 or 1; None if there is no limit."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((root / file).read_text() for file in files).split()
            cores = int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # no such file; "max"
            continue
        return cores if cores > 0 else None  # version 1 says -1 for no limit
    return None
