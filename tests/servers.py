"""Servers as processes of their own, started from those that have imported everything."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from forked import ALONE, TESTS, free_port, start_script


@dataclass
class Served:
    """A server that runs, or has run."""

    port: int
    process: BaseProcess
    log: Path
    key: str | None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def printed(self) -> str:
        return self.log.read_text()

    def processes(self) -> list[int]:
        """The server's processes, which are those of its group."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(group) == self.process.pid and state != "Z":
                found.append(int(stat.parent.name))
        return found

    def stop(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Sends a signal and waits: the exit code."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)
        self.process.join(seconds)
        assert self.process.exitcode is not None, self.printed
        return self.process.exitcode


def start_server(folder: Path, *flags: str, key: str | None = None) -> Served:
    """A server that is being started; it prints to a file in the folder."""
    port = free_port()
    log = folder / f"server-{port}.txt"
    variables = {**ALONE, **({} if key is None else {"LLM2VEC_PL_API_KEY": key})}
    script = str(TESTS / "forked_server.py")
    arguments = [*flags, "--port", str(port)]
    process = start_script(script, arguments, folder, variables, str(log), str(log))
    return Served(port, process, log, key)


@contextmanager
def serving(folder: Path, *flags: str, key: str | None = None) -> Iterator[Served]:
    """A server that is ready; all its processes are killed in the end, if there still are any."""
    server = start_server(folder, *flags, key=key)
    try:
        wait_until_ready(server)
        yield server
    finally:
        for pid in {*server.processes(), server.process.pid}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        server.process.join()


def wait_until_ready(server: Served, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not (server.log.exists() and "Serving" in server.printed):
        assert server.process.is_alive(), server.printed
        assert time.monotonic() < end, server.printed
        time.sleep(0.05)
