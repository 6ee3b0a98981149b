"""How far the work is, and how long it will still take."""

from __future__ import annotations

from llm2vec_pl.use.bulk.progress import Progress


def test_a_line_says_how_many_rows_how_fast_and_how_long() -> None:
    now, lines = [0.0], []
    progress = Progress(1_000, lambda: 9_000, ranks=2, clock=lambda: now[0], write=lines.append)
    progress._counter.join()
    now[0] = 10.0
    progress.advance(500)  # the first one is said at once
    now[0] = 40.0
    progress.advance(500)
    now[0] = 80.0
    progress.advance(1_000)
    assert lines == [
        "2,000 of about 9,000 rows, 100 rows/s, 70 s left",
        "5,000 of about 9,000 rows, 50 rows/s, 80 s left",
    ]


def test_rows_that_cannot_be_counted_are_not_waited_for() -> None:
    def fails() -> int:
        raise OSError

    lines: list[str] = []
    times = iter([0.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    progress = Progress(0, fails, clock=lambda: next(times), write=lines.append)
    progress._counter.join()
    progress.advance(30)
    assert lines == ["30 rows, 30 rows/s"]
