"""Processes that start at once: forked from one that has imported everything.

To import torch, Lightning and transformers takes a process 5 to 10 seconds, more than most tests
need for what they test. Each process is otherwise one of its own: another interpreter state than
that of pytest, the environment and the folder that it is given, an exit code, signals.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "llm2vec_pl.training.command",
        "llm2vec_pl.data",
        "llm2vec_pl.evaluation",
        "llm2vec_pl.lora.new",
        "bitsandbytes",
        "pandas",
        "peft",
        "pyarrow.feather",
        "torch._dynamo",
        "torch.distributed.fsdp",
        "torch.utils.tensorboard",
        "transformers.models.llama.modeling_llama",
    ]
)
ALONE = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class Done(NamedTuple):
    """What a process has left."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def printed(self) -> str:
        return self.stdout + self.stderr


def run_recipe(
    recipe: str,
    *flags: str,
    cwd: Path,
    environment: dict[str, str] | None = None,
    seconds: float = 300,
) -> Done:
    """`python recipes/RECIPE FLAGS` in `cwd`, with a cache of its own there unless one is given."""
    variables = {**ALONE, "LLM2VEC_PL_CACHE": str(cwd / "cache"), **(environment or {})}
    with tempfile.TemporaryDirectory() as folder:
        outputs = [str(Path(folder, name)) for name in ("stdout", "stderr")]
        process = start_recipe(recipe, list(flags), cwd, variables, *outputs)
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
        assert process.exitcode is not None
        return Done(process.exitcode, *(Path(output).read_text() for output in outputs))


def start_recipe(
    recipe: str, flags: list[str], cwd: Path, variables: dict[str, str], stdout: str, stderr: str
) -> multiprocessing.process.BaseProcess:
    """A recipe that runs, and adds what it prints to these files."""
    script = str(ROOT / "recipes" / recipe)
    return start_script(script, flags, cwd, variables, stdout, stderr)


def start_script(
    script: str, flags: list[str], cwd: Path, variables: dict[str, str], stdout: str, stderr: str
) -> multiprocessing.process.BaseProcess:
    environment = {**os.environ, **variables}
    arguments = (script, flags, str(cwd), environment, stdout, stderr)
    process = FORKS.Process(target=_script, args=arguments)
    process.start()
    return process


def run_ranks(
    script: Path, flags: list[str], ranks: int, cwd: Path, seconds: float = 300
) -> list[Done]:
    """A script on several ranks, each with the environment that torchrun gives it; all must end.

    When one fails, the others are killed, as torchrun does.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        outputs = [[f"{folder}/{rank}.{name}" for name in "oe"] for rank in range(ranks)]
        processes = [
            start_script(
                str(script),
                flags,
                cwd,
                {**ALONE, **(torchrun(rank, ranks, port) if ranks > 1 else {})},
                *outputs[rank],
            )
            for rank in range(ranks)
        ]
        end = time.monotonic() + seconds
        while any(process.exitcode is None for process in processes):
            if time.monotonic() > end or any(process.exitcode for process in processes):
                for process in processes:
                    process.kill()
            for process in processes:
                process.join(0.05)
        codes = [process.exitcode or 0 for process in processes]
        return [
            Done(code, *(Path(output).read_text() for output in pair))
            for code, pair in zip(codes, outputs, strict=True)
        ]


def spawn(
    function: Callable[..., None], args: tuple[Any, ...], nprocs: int, join: bool = True
) -> Any:
    """As `torch.multiprocessing.spawn`: `function(rank, *args)` in each of so many processes.

    Each has a thread, and the environment that torchrun gives a rank.
    """
    import torch.multiprocessing as mp

    port = free_port()
    environments = [{**os.environ, **torchrun(rank, nprocs, port)} for rank in range(nprocs)]
    arguments = (environments, function, args)
    return mp.start_processes(_call, arguments, nprocs, join, start_method="forkserver")


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


def _call(
    rank: int, environments: list[dict[str, str]], function: Any, args: tuple[Any, ...]
) -> None:
    _become(environments[rank])
    function(rank, *args)


def _script(
    script: str, flags: list[str], cwd: str, environment: dict[str, str], stdout: str, stderr: str
) -> None:
    _become(environment)
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in enumerate((stdout, stderr), 1):
        with open(name, "a") as output:
            os.dup2(output.fileno(), number)
    sys.argv = [script, *flags]
    kept = [path for path in sys.path if path and Path(path).resolve() != TESTS]
    sys.path[:] = [str(Path(script).parent), *kept]
    runpy.run_path(script, run_name="__main__")


def _become(environment: dict[str, str]) -> None:
    """With the caller's environment, which is not the one that the processes are forked from."""
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers, as usual
    import torch

    torch.set_num_threads(1)
