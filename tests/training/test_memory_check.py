"""The estimate of a step's memory is printed, and whatever it was wrong by."""

import re
from pathlib import Path

import pytest
import torch
from trained import quiet_trainer, small_data, small_mntp

from llm2vec_pl.training import memory_check
from llm2vec_pl.training.memory_check import Expected, MemoryCheck, difference, peak_memory

GIB = 2**30


def expected(total: float, most: float = 0.0, now: float = 1.2, peak: float = 1.3) -> Expected:
    sizes = (total, most or total, 2.0)
    return Expected(*(round(s * GIB) for s in sizes), 2000, round(now * GIB), round(peak * GIB))


def messages(caplog, folder, tmp_path, steps=4, **options):
    trainer = quiet_trainer(
        tmp_path, MemoryCheck(), max_steps=steps, limit_val_batches=0, **options
    )
    with caplog.at_level("INFO"):
        trainer.fit(small_mntp(folder), small_data(tmp_path))
    return [text for text in caplog.messages if text.startswith("Memory for")]


def test_the_memory_of_a_step_is_printed_before_the_first(llama_folder, tmp_path, caplog):
    (line,) = messages(caplog, llama_folder, tmp_path, steps=1)
    assert re.match(r"Memory for a step of \d\d tokens: frozen weights", line)
    assert "for tensors; the process has" in line or not Path("/proc/self/status").exists()
    assert "GiB free" in line


def test_nothing_more_is_said_where_the_estimate_was_right(llama_folder, tmp_path, caplog):
    assert len(messages(caplog, llama_folder, tmp_path)) == 1


@pytest.mark.parametrize(("steps", "lines"), [(1, 1), (2, 2), (4, 2)])
def test_after_the_second_step_it_is_said_once_where_it_was_wrong(
    llama_folder, tmp_path, caplog, monkeypatch, steps, lines
):
    """With gradients accumulated over two batches, after the fourth batch."""
    peaks = iter([0, 500 * GIB])
    monkeypatch.setattr(memory_check, "peak_memory", lambda device: next(peaks))
    said = messages(caplog, llama_folder, tmp_path, steps, accumulate_grad_batches=2)
    assert len(said) == lines
    if lines == 2:
        start = r"Memory for 2 steps of at most \d\d tokens: 500.0 GiB resident, its libraries"
        assert re.match(start, said[1])
        assert "had been estimated" in said[1]


@pytest.mark.parametrize("peak", [3.01, 4.0, 4.99])
def test_up_to_a_quarter_is_no_difference(peak):
    assert difference(expected(4.0), round(peak * GIB), 2000) is None


def test_what_the_process_had_is_told_with_what_was_said_of_it():
    line = difference(expected(3.2, most=7.0), round(7.6 * GIB), 2000)
    assert line == (
        "Memory for 2 steps of at most 2,000 tokens: 7.6 GiB resident, its libraries included "
        "(1.2 before the first step). About 3.2 had been estimated, or up to 7.0 with a fragmented "
        "heap."
    )


def test_on_a_gpu_it_is_what_was_allocated():
    line = difference(expected(4.0, now=0.0), round(5.5 * GIB), 2000)
    assert line == (
        "Memory for 2 steps of at most 2,000 tokens: 5.5 GiB allocated. About 4.0 had been "
        "estimated."
    )


def test_too_high_an_estimate_is_told_too():
    assert "1.4 GiB resident" in (difference(expected(4.0), round(1.4 * GIB), 2000) or "")


def test_below_an_earlier_peak_only_too_high_an_estimate_can_be_told():
    """Reading the weights took more: the steps took at most that, but how much is not known."""
    assert difference(expected(2.0, peak=9.0), round(9 * GIB), 2000) is None
    assert difference(expected(9.0, peak=9.0), round(9 * GIB), 2000) is None
    line = difference(expected(13.0, peak=9.0), round(9 * GIB), 2000)
    assert line is not None
    assert "at most 9.0 GiB resident" in line


def test_a_larger_batch_than_the_first_is_expected_to_need_more():
    assert difference(expected(4.0), round(5.6 * GIB), 2000) is not None
    assert difference(expected(4.0), round(5.6 * GIB), 3000) is None


def test_the_peak_is_not_below_what_the_process_has_now():
    if Path("/proc/self/status").exists():
        peak = peak_memory(torch.device("cpu"))
        assert peak is not None
        assert peak > 50 * 2**20
    assert peak_memory(torch.device("meta")) is None
