import sys
import time

import pytest

from llm2vec_pl.training import lines
from llm2vec_pl.training.lines import on_terminal, still_at


def test_a_long_work_says_that_it_goes_on_and_is_silent_afterwards(monkeypatch):
    monkeypatch.setattr(lines, "on_terminal", lambda: False)
    said: list[str] = []
    with still_at("measuring causal", seconds=0.02, write=said.append):
        end = time.monotonic() + 10
        while len(said) < 2 and time.monotonic() < end:
            time.sleep(0.01)
    count = len(said)
    assert count >= 2
    assert set(said) == {"measuring causal: 0 s so far"}
    time.sleep(0.06)
    assert len(said) == count


def test_it_ends_with_an_error_too(monkeypatch):
    monkeypatch.setattr(lines, "on_terminal", lambda: False)
    said: list[str] = []
    with pytest.raises(ZeroDivisionError), still_at("dividing", 0.02, said.append):
        raise ZeroDivisionError
    time.sleep(0.06)
    assert said == []


def test_a_terminal_gets_no_lines(monkeypatch):
    monkeypatch.setattr(lines, "on_terminal", lambda: True)
    said: list[str] = []
    with still_at("measuring", 0.001, said.append):
        time.sleep(0.05)
    assert said == []


def test_a_file_is_no_terminal(tmp_path, monkeypatch):
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        assert not on_terminal()
    monkeypatch.setattr(sys, "stdout", None)  # as with pythonw
    assert not on_terminal()
