import pytest

from llm2vec_pl.training.memory import Memory
from llm2vec_pl.training.memory.resident import (
    MMAP_THRESHOLD,
    heap_keeps,
    resident_after,
    resident_line,
    resident_now,
)

GIB, MIB = 2**30, 2**20
# 135 million weights, a LoRA, 1,977 tokens: 7.2 GiB were resident at the most, and 3.7 GiB with
# MALLOC_MMAP_THRESHOLD_=1048576.
MEASURED = Memory(
    frozen=round(0.5 * GIB),
    trained=round(0.02 * GIB),
    optimizer=round(0.04 * GIB),
    gradients=0,
    activations=round(2.6 * GIB),
    transient=round(0.06 * GIB),
)
BEFORE, STATES = round(1.24 * GIB), 1977 * 576 * 4


@pytest.fixture
def glibc(monkeypatch):
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.delenv(MMAP_THRESHOLD, raising=False)
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    return monkeypatch


def test_what_is_said_of_a_process_covers_what_was_measured(glibc):
    about, most = resident_after(MEASURED, BEFORE, STATES)
    assert 3.7 * GIB < about < 4.1 * GIB
    assert 7.2 * GIB < most < 8.2 * GIB
    line = resident_line(BEFORE, about, most, 19 * GIB)
    assert "has 1.2 GiB with its libraries and will have about 3.9, at most 7.9" in line
    assert line.endswith("of 20.2 GiB free")


def test_a_heap_that_gives_back_at_once_does_not_fragment(glibc):
    assert heap_keeps(STATES)
    assert not heap_keeps(64 * MIB)
    glibc.setenv(MMAP_THRESHOLD, "1048576")
    assert not heap_keeps(STATES)
    about, most = resident_after(MEASURED, BEFORE, STATES)
    assert about == most
    assert "fragments" not in resident_line(BEFORE, about, most, None)
    glibc.delenv(MMAP_THRESHOLD)
    glibc.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
    assert not heap_keeps(STATES)


def test_the_process_is_larger_than_its_tensors():
    now = resident_now()
    assert now is None or now > 50 * MIB
