"""Embedding on several devices at once, a process for each."""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm2vec_pl.errors import UserError

if TYPE_CHECKING:
    from llm2vec_pl.encoder.encoder import Encoder

SHARES = 8
"""Chunks of texts for each process: the fewer, the longer the last one makes the others wait."""

MOST_TEXTS = 4096
"""In a chunk, so that a progress bar moves."""


class EncoderPool:
    """A copy of an encoder on each of several devices, ready until it is closed.

    The weights of an encoder on the CPU are shared between the processes, not copied. A script that
    makes a pool needs `if __name__ == "__main__":`, since each process imports it.

    Args:
        encoder: with its weights.
        devices: such as `["cuda:0", "cuda:1"]`, or `["cpu"] * 4`.

    Raises:
        UserError: if a device is unknown.
    """

    def __init__(self, encoder: Encoder, devices: Sequence[str | torch.device]) -> None:
        self.encoder = encoder
        self.devices = [str(known_device(device)) for device in devices]
        if not self.devices:
            raise UserError('`device` is a list of no devices. Name one or more, such as ["cpu"].')
        context = torch.multiprocessing.get_context("spawn")
        queue = context.Queue()
        for device in self.devices:
            queue.put(device)
        threads = max(1, torch.get_num_threads() // len(self.devices))
        self._processes = ProcessPoolExecutor(
            len(self.devices), context, _begin, (encoder.load(), queue, threads)
        )

    def encode(
        self, texts: list[str], instructions: list[str], batch_size: int
    ) -> Iterator[Tensor]:
        """Embeddings of a chunk of texts at a time, in order: (N', D) each.

        Raises:
            UserError: if a process ends before its work does.
        """
        size = min(MOST_TEXTS, math.ceil(len(texts) / len(self.devices) / SHARES)) or 1
        chunks = [slice(i, i + size) for i in range(0, len(texts), size)]
        work: list[Future[Any]] = []
        try:
            work.extend(
                self._processes.submit(_encode, texts[c], instructions[c], batch_size)
                for c in chunks
            )
            for chunk in work:
                yield torch.from_numpy(chunk.result())
        except BrokenProcessPool as error:
            raise UserError(
                f"A process that embeds on one of {', '.join(self.devices)} ended before its work "
                "did. Where a script makes a pool, it has to do so under "
                '`if __name__ == "__main__":`. Otherwise the memory may have been too small: use '
                "fewer devices, or a smaller `batch_size`."
            ) from error
        finally:
            for chunk in work:
                chunk.cancel()

    def close(self) -> None:
        """Ends the processes."""
        self._processes.shutdown(cancel_futures=True)

    def __enter__(self) -> EncoderPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def known_device(device: str | torch.device) -> torch.device:
    """A device that this machine has.

    Raises:
        UserError: if it does not.
    """
    try:
        known = torch.device(device)
        torch.empty(0, device=known)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        cards = torch.cuda.device_count()
        has = f"cuda:0 to cuda:{cards - 1}" if cards else "no CUDA devices"
        raise UserError(
            f"`device={device!r}` cannot be used: {str(error).splitlines()[0]} This machine has "
            f"the CPU and {has}."
        ) from error
    return known


_own: Any = None  # the encoder of a process in a pool


def _begin(encoder: Encoder, devices: multiprocessing.Queue[str], threads: int) -> None:
    global _own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the process that asked
    torch.set_num_threads(threads)
    _own = encoder.to(devices.get())


def _encode(texts: list[str], instructions: list[str], batch_size: int) -> Any:
    # As an array: a tensor would have to be fetched from a process that may have ended by then.
    return _own.encode(texts, instructions, batch_size).numpy()
