"""How much memory a device has free."""

from __future__ import annotations

from pathlib import Path

import torch

CONTROL_GROUPS = Path("/sys/fs/cgroup")


def free_memory(device: torch.device | str) -> int | None:
    """The bytes that are free on a device; None if unknown. A container's limit counts."""
    device = torch.device(device)
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle
    if device.type != "cpu":
        return None
    known = [size for size in (_available(), _left_in_container()) if size is not None]
    return min(known, default=None)


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable")), None)


def _left_in_container(root: Path = CONTROL_GROUPS) -> int | None:
    """Bytes left within the control group's limit, version 2 or 1; None without a limit."""
    for folder, limit, used in (
        (root, "memory.max", "memory.current"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            left = int((folder / limit).read_text()) - int((folder / used).read_text())
            statistics = dict(x.split() for x in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such file; "max"
            continue
        return left + int(statistics.get("inactive_file", 0))  # files' pages, which can go
    return None
