"""A server under load: several clients at once, against one client that sends text after text."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.texts import TEXTS, pieces
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError

STARTS_WITHIN = 600  # seconds


class Load(NamedTuple):
    """So many clients, each of which sends its next request when the last one is answered."""

    clients: int
    texts: int

    def __str__(self) -> str:
        texts = "one text" if self.texts == 1 else f"{self.texts} texts"
        return f"{self.clients} client{'s' * (self.clients > 1)}, {texts} a request"


class Outcome(NamedTuple):
    """What a load was like.

    Attributes:
        seconds: of each request that was answered.
        errors: what became of the others.
        rates: texts a second, in each turn.
        costs: processor seconds a text, of clients and server together, in each turn.
    """

    seconds: list[float]
    errors: list[str]
    rates: list[float]
    costs: list[float]


def serve(
    model_name: str = "tiny",
    clients: int = 8,
    texts_at_once: int = 32,
    seconds: float = 60.0,
    rounds: int = 4,
    workers: int = 1,
) -> None:
    """Texts a second of `recipes/serve.py` under load, with p50 and p99 of the requests' seconds.

    Three kinds of load take turns: one client with one text a request, several clients with one
    text a request, and several clients with many.

    Args:
        model_name: the encoder to serve.
        clients: how many of them ask at once.
        texts_at_once: texts in a request of the third kind.
        seconds: length of each kind of load with several clients; one client has a third of that.
        rounds: number of turns, into which these seconds are divided.
        workers: processes of the server that encode.
    """
    (texts,) = pieces(Encoder(model_name).tokenizer, TEXTS.draw(2000, seed=0))
    alone = Load(1, 1)
    loads = {alone: seconds / 3, Load(clients, 1): seconds, Load(clients, texts_at_once): seconds}
    found = {load: Outcome([], [], [], []) for load in loads}
    with _served(model_name, workers) as (port, server):
        asked(port, alone, texts, 1.0)  # warm
        for _ in range(rounds):
            for load, length in loads.items():
                began, spent = time.perf_counter(), _processor_seconds(server)
                outcome = asked(port, load, texts, length / rounds)
                count = max(1, len(outcome.seconds) * load.texts)
                found[load].seconds.extend(outcome.seconds)
                found[load].errors.extend(outcome.errors)
                found[load].rates.append(count / (time.perf_counter() - began))
                found[load].costs.append((_processor_seconds(server) - spent) / count)
    for load, outcome in found.items():
        report(load, outcome, found[alone])


def report(load: Load, outcome: Outcome, alone: Outcome) -> None:
    """Prints what a load was like, beside one client with one text a request."""
    for message, alike in itertools.groupby(sorted(outcome.errors)):
        print(f"{load}: {len(list(alike))} errors: {message}")
    if len(outcome.seconds) < 2:
        print(f"{load}: too few answers; use more `seconds`")
        return
    percent = statistics.quantiles(outcome.seconds, n=100, method="inclusive")
    ratio = statistics.median(
        rate / one for rate, one in zip(outcome.rates, alone.rates, strict=True)
    )
    print(
        f"{load}: {statistics.median(outcome.rates):,.1f} texts a second, {ratio:.2f} times the "
        f"first; p50 {1000 * percent[49]:,.0f} ms, p99 {1000 * percent[98]:,.0f} ms; "
        f"{1000 * statistics.median(outcome.costs):.1f} ms of processor time a text; "
        f"{len(outcome.seconds):,} requests, {len(outcome.errors)} errors"
    )


def asked(port: int, load: Load, texts: list[str], seconds: float) -> Outcome:
    """Puts a load on the server for so many seconds."""
    outcome = Outcome([], [], [], [])
    end = time.monotonic() + seconds
    threads = [
        threading.Thread(target=_client, args=(port, load, texts, place, end, outcome))
        for place in range(load.clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def _client(
    port: int, load: Load, texts: list[str], place: int, end: float, outcome: Outcome
) -> None:
    own = itertools.cycle(texts[place * len(texts) // load.clients :] + texts)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    while time.monotonic() < end:
        body = json.dumps(
            {"input": list(itertools.islice(own, load.texts)), "encoding_format": "base64"}
        )
        started = time.perf_counter()
        try:
            connection.request("POST", "/v1/embeddings", body)
            response = connection.getresponse()
            content = json.loads(response.read())
            assert response.status == 200, content
            assert len(content["data"]) == load.texts, "some texts are missing"
        except (AssertionError, OSError, ValueError, http.client.HTTPException) as error:
            outcome.errors.append(f"{type(error).__name__}: {error}")
            connection.close()
            continue
        outcome.seconds.append(time.perf_counter() - started)
    connection.close()


@contextmanager
def _served(model_name: str, workers: int) -> Iterator[tuple[int, int]]:
    """The port and process of a server that is ready; in the end it is stopped like a service."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    recipe = Path(__file__).parents[1] / "recipes" / "serve.py"
    variables = {key: value for key, value in os.environ.items() if key != "LLM2VEC_PL_API_KEY"}
    flags = ["--port", str(port), "--workers", str(workers)]
    command = [sys.executable, str(recipe), model_name, *flags]
    server = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + STARTS_WITHIN
        while not _is_ready(port):
            if server.poll() is not None or time.monotonic() > end:
                raise UserError("The server did not start; what it printed says why.")
            time.sleep(0.2)
        yield port, server.pid
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def _processor_seconds(server: int) -> float:
    """Of this process and of the server's, as far as /proc tells."""
    total = time.process_time()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            fields = file.read_text().rpartition(")")[2].split()
            if server in (int(file.parent.name), int(fields[1])):  # itself, or its child
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
