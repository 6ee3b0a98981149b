"""What one rank has noticed, known to all of them at the same step."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from llm2vec_pl.distributed import world
from llm2vec_pl.encoder import send


class HostCopy:
    """A tensor's values on the way to the CPU, so that who reads them later need not wait.

    Args:
        values: on any device, one-dimensional.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.detach().to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[float]:
        """The values; waits for them if they are still on the way."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return list(map(float, self._values.tolist()))


class Agreement:
    """Flags that are raised on all ranks once they are raised on one.

    They are exchanged after each step and read after the next one, so that no device has to wait:
    all ranks then read the same flags at the same step. A process alone reads them at once.
    """

    def __init__(self) -> None:
        self._sent: HostCopy | None = None

    def exchange(self, flags: list[bool], device: torch.device) -> list[bool]:
        """Sends this rank's flags; those that any rank sent the step before, or sends alone."""
        if world()[1] == 1:
            return flags
        arrived = self._sent.read() if self._sent else [0.0] * len(flags)
        sent = send(torch.tensor(flags, dtype=torch.float32), device)
        dist.all_reduce(sent, dist.ReduceOp.MAX)
        self._sent = HostCopy(sent)
        return [bool(flag) for flag in arrived]
