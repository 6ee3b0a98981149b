"""What one rank has noticed, made known to all ranks at the same step."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from llm2vec_pl.distributed import world
from llm2vec_pl.encoder import send


class HostCopy:
    """A copy of a tensor's values on its way to the CPU, so that reading it later need not wait.

    Args:
        values: a one-dimensional tensor on any device.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.detach().to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[float]:
        """The values; waits if they have not arrived yet."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return list(map(float, self._values.tolist()))


class Agreement:
    """Flags that are raised on all ranks once they are raised on one.

    They are exchanged after each step and read after the next one, so that no device has to wait:
    all ranks then read the same flags at the same step. A single process reads them at once.
    """

    def __init__(self) -> None:
        self._sent: HostCopy | None = None

    def exchange(self, flags: list[bool], device: torch.device) -> list[bool]:
        """Sends this rank's flags, and returns those that any rank sent one step earlier."""
        if world()[1] == 1:
            return flags
        arrived = self._sent.read() if self._sent else [0.0] * len(flags)
        sent = send(torch.tensor(flags, dtype=torch.float32), device)
        dist.all_reduce(sent, dist.ReduceOp.MAX)
        self._sent = HostCopy(sent)
        return [bool(flag) for flag in arrived]
