"""The load and its report, on a server that only counts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.server_load import Load, Outcome, asked, report


class Counting(BaseHTTPRequestHandler):
    """Answers with an empty embedding for each text; a text that says `fail` gets the code 500."""

    protocol_version = "HTTP/1.1"
    sizes: list[int]

    def do_POST(self) -> None:
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        self.sizes.append(len(texts))
        content = json.dumps({"data": [{} for _ in texts]}).encode()
        self.send_response(500 if "fail" in texts else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def counting() -> Iterator[ThreadingHTTPServer]:
    Counting.sizes = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Counting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_each_answered_request_is_timed(counting):
    outcome = asked(counting.server_port, Load(3, 2), ["a", "b", "c"], 0.2)
    assert len(outcome.seconds) == len(counting.RequestHandlerClass.sizes) > 3
    assert set(counting.RequestHandlerClass.sizes) == {2}
    assert outcome.errors == []


def test_what_is_not_answered_counts_as_an_error(counting):
    outcome = asked(counting.server_port, Load(1, 1), ["fail"], 0.1)
    assert outcome.seconds == []
    assert outcome.errors


def test_the_report_says_rate_ratio_percentiles_and_cost(capsys):
    alone = Outcome([1.0], [], [10.0, 20.0], [0.1, 0.1])
    many = Outcome([0.1] * 98 + [0.9] * 2, ["late"], [30.0, 40.0], [0.02, 0.04])
    report(Load(8, 1), many, alone)
    printed = capsys.readouterr().out
    assert "8 clients, one text a request: 35.0 texts a second, 2.50 times the first" in printed
    assert "p50 100 ms, p99 900 ms; 30.0 ms of processor time a text" in printed
    assert "100 requests, 1 errors" in printed
    assert "1 errors: late" in printed
