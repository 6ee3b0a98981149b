"""The server's processes: started together, watched, and ended together."""

from __future__ import annotations

import http.client
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llm2vec_pl.errors import UserError

if TYPE_CHECKING:
    from litserve import LitServer

_GRACE = 5  # seconds that a process has for ending by itself


def run_until_stopped(server: LitServer, host: str, port: int, name: str) -> None:
    """Runs the server until SIGTERM or Ctrl-C, and answers what has been asked by then.

    A second signal ends it at once. No process is left behind, not even if this one is killed.

    Args:
        server: not yet running.
        host: the address to listen on.
        port: a free one.
        name: what clients call the model.

    Raises:
        SystemExit: with code 2 if the encoder cannot be loaded, which has been said by then.
        UserError: if the process that encodes was killed.
    """
    stopping = threading.Event()
    deaths: list[int] = []
    arguments = (server, host, port, name, stopping, deaths)
    watch = threading.Thread(target=_watch, args=arguments, daemon=True, name="watch")
    with _interrupted_by_signals(stopping), _children_end_with_us():
        watch.start()
        try:
            server.run(
                host=host,
                port=port,
                num_api_servers=1,
                log_level="critical",
                generate_client_file=False,
                # Longer than clients keep a connection that idles: else one may send a request
                # just when the server hangs up.
                timeout_keep_alive=60,
            )
        except KeyboardInterrupt:  # before LitServe was ready for it, or a second one
            pass
        except Exception:
            if not deaths:
                raise
        finally:
            stopping.set()
            _end_children()
    if deaths:
        _explain(deaths[0])


@contextmanager
def _interrupted_by_signals(stopping: threading.Event) -> Iterator[None]:
    """SIGTERM does what Ctrl-C does; LitServe would leave its processes behind."""
    main = os.getpid()

    def interrupt(*_: Any) -> None:
        if os.getpid() == main:  # processes forked from this one inherit the handler
            stopping.set()
            raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _children_end_with_us() -> Iterator[None]:
    """Forked processes watch this one; those that are spawned do it themselves."""
    serving = True

    def watch_parent() -> None:
        if serving:
            end_with_parent()

    os.register_at_fork(after_in_child=watch_parent)
    try:
        yield
    finally:
        serving = False


def end_with_parent() -> None:
    """Ends this process when its parent is gone, even one that was killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def _watch(
    server: LitServer,
    host: str,
    port: int,
    name: str,
    stopping: threading.Event,
    deaths: list[int],
) -> None:
    """Says when the server is ready; ends all its processes when one that encodes dies."""
    ready = False
    while not stopping.wait(0.1):
        workers = getattr(server, "inference_workers", [])
        dead = [worker.exitcode for worker in workers if worker.exitcode is not None]
        if dead and not stopping.wait(0.2):  # a signal may have come to all processes
            deaths += dead
            # Nobody would answer, so nobody should wait. The main process notices it, too.
            for child in multiprocessing.active_children():
                child.kill()
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if not ready and _is_healthy(host, port):
            ready = True
            shown = f"[{host}]" if ":" in host else host
            print(f"Serving {name} at http://{shown}:{port} (Ctrl-C stops it)", flush=True)


def _is_healthy(host: str, port: int) -> bool:
    own = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    connection = http.client.HTTPConnection(own.get(host, host), port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _end_children() -> None:
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(_GRACE)
        if child.is_alive():
            child.kill()
            child.join()


def _explain(code: int) -> None:
    if code == 2:  # it has said why
        raise SystemExit(2)
    if code < 0:
        raise UserError(
            f"The process that encodes was ended by {signal.Signals(-code).name}. If that was not "
            "you, memory may have run out: lower `batch_tokens` or `max_waiting`."
        )
    raise SystemExit(1)  # a bug, whose traceback has been printed
