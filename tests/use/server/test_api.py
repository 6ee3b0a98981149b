"""How the process that encodes begins."""

from __future__ import annotations

import pytest

from llm2vec_pl import Encoder, UserError
from llm2vec_pl.use.server import api as module
from llm2vec_pl.use.server.api import EncoderAPI


@pytest.fixture(autouse=True)
def _this_process_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(module, "end_with_parent", lambda: None)
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)
    monkeypatch.setattr(module, "disable_progress_bar", lambda: None)


def started_with(fault: Exception, monkeypatch) -> int:
    def fail(*_, **__):
        raise fault

    monkeypatch.setattr(Encoder, "from_pretrained", fail)
    with pytest.raises(SystemExit) as end:
        EncoderAPI("tiny", {}, batch_tokens=None, seconds=60).setup("cpu")
    return end.value.code


def test_what_the_user_can_mend_is_said_in_a_line(monkeypatch, capsys):
    assert started_with(UserError("no such folder"), monkeypatch) == 2
    assert capsys.readouterr().err == "error: no such folder\n"


@pytest.mark.parametrize(("workers", "threads"), [(1, []), (2, [3]), (9, [1])])
def test_those_that_share_a_cpu_share_its_cores(monkeypatch, encoder, workers, threads):
    chosen = []
    monkeypatch.setattr(Encoder, "from_pretrained", lambda *_, **__: encoder)
    monkeypatch.setattr(module.torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(module.torch, "set_num_threads", chosen.append)
    EncoderAPI("tiny", {}, batch_tokens=None, seconds=60, workers=workers).setup("cpu")
    assert chosen == threads


def test_anything_else_shows_its_traceback(monkeypatch, capsys):
    assert started_with(MemoryError("a full device"), monkeypatch) == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert printed.rstrip().endswith("MemoryError: a full device")
