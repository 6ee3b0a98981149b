"""Recipes as processes that can be killed: forked from one that has imported everything."""

from __future__ import annotations

import csv
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["llm2vec_pl.training.command", "llm2vec_pl.lora.new", "torch._dynamo"]
)


class Run:
    """A recipe in `cwd` with these flags, on 1 or more ranks, as torchrun starts them."""

    def __init__(
        self,
        recipe: str,
        flags: list[str],
        cwd: Path,
        ranks: int = 1,
        environment: dict[str, str] | None = None,
    ) -> None:
        port = free_port()
        self.processes = []
        for rank in range(ranks):
            variables = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
            variables |= {"LLM2VEC_PL_CACHE": str(cwd / "cache"), **(environment or {})}
            if ranks > 1:
                variables |= torchrun(rank, ranks, port)
            process = FORKS.Process(target=_main, args=(recipe, flags, str(cwd), variables))
            process.start()
            self.processes.append(process)

    def wait(self, seconds: float = 240) -> list[int | None]:
        """Exit codes; None of a process that still runs."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def send(self, number: signal.Signals) -> None:
        """A signal to all processes that are alive."""
        for process in self.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    def kill(self) -> None:
        """SIGKILL to all of them; returns when they are gone."""
        self.send(signal.SIGKILL)
        for process in self.processes:
            process.join()


def torchrun(rank: int, ranks: int, port: int) -> dict[str, str]:
    """The environment that torchrun gives a rank."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _main(recipe: str, flags: list[str], cwd: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.chdir(cwd)
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers, as usual
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open("output.txt", "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    import torch

    torch.set_num_threads(1)
    script = str(ROOT / "recipes" / recipe)
    sys.argv = [script, *flags]
    runpy.run_path(script, run_name="__main__")


def rows(folder: Path, column: str) -> dict[int, str]:
    """A column of `metrics.csv` by step, to the last digit; the last entry of each step."""
    file = folder / "metrics.csv"
    if not file.is_file():
        return {}
    with file.open(newline="") as lines:
        return {
            int(row["step"]): row[column]
            for row in csv.DictReader(lines)
            if row.get(column) and row.get("step")
        }
