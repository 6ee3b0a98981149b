import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from llm2vec_pl.errors import UserError
from llm2vec_pl.training import failures
from llm2vec_pl.training.failures import no_process_left, out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_a_step_that_does_not_fit_says_what_takes_less(error):
    with (
        pytest.raises(UserError, match="(?s)not enough memory.*--data.batch_size"),
        out_of_memory(),
    ):
        raise error


def test_a_real_allocation_that_fails_is_understood():
    with pytest.raises(UserError, match="--encoder.quantization"), out_of_memory():
        torch.empty(2**55)


def test_another_error_stays_what_it_is():
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory():
        raise RuntimeError("shapes do not fit")


def test_the_processes_of_other_ranks_end_with_this_one(monkeypatch):
    monkeypatch.setattr(failures, "PATIENCE", 0.3)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=[other])))
    started = time.monotonic()
    with pytest.raises(ValueError, match="this rank"), no_process_left(trainer):
        raise ValueError("this rank cannot go on")
    assert other.wait(5) != 0
    assert time.monotonic() - started < 10
