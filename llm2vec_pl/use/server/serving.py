"""Starts the server, and sees to it that all its processes end with it."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm2vec_pl.decoder import locate, read_settings
from llm2vec_pl.encoder import Dtype
from llm2vec_pl.errors import Faults, UserError

if TYPE_CHECKING:
    from litserve import LitServer

    from llm2vec_pl.use.server.request import Limits

KEY = "LLM2VEC_PL_API_KEY"

Host = Literal["127.0.0.1", "0.0.0.0", "::"]


def serve(
    model_name: str,
    host: Host = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    prompts: dict[str, str] | None = None,
    dtype: Dtype | None = None,
    quantization: Literal["int8_dynamic", "int8", "nf4"] | None = None,
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    devices: int | Literal["auto"] = "auto",
    batch_tokens: int | None = None,
    max_texts: int = 2048,
    max_characters: int = 100_000,
    max_body: int = 16,
    max_waiting: int = 8192,
    timeout: float = 60.0,
) -> None:
    """Serves an encoder's embeddings as OpenAI does, until SIGTERM or Ctrl-C.

    If the environment variable LLM2VEC_PL_API_KEY is set, clients must send its value.

    Args:
        model_name: the encoder: a folder, a name on the hub, or `tiny`.
        host: 127.0.0.1 for this machine only, 0.0.0.0 for all IPv4 addresses, :: for IPv6 too.
        port: from 1024 to 65535.
        name: what clients call the model; by default the last part of `model_name`.
        prompts: by name, in place of the encoder's own. The field `input_type` of a request says
            which one is written before its texts: `query`, `document` or any other name.
        dtype: of the weights; by default the encoder's own, or bfloat16 on a CPU that multiplies
            in it.
        quantization: multiply in fewer bits; `int8_dynamic` is for CPUs.
        accelerator: where to encode; `auto` takes GPUs if there are any.
        devices: how many GPUs, each with its own copy of the encoder.
        batch_tokens: most tokens that are encoded together, across requests; 2,048 on a CPU and
            32,768 on a GPU if null.
        max_texts: most texts in a request.
        max_characters: most characters in a text. Of its tokens, the encoder reads the first
            `max_length`.
        max_body: most MiB in the body of a request.
        max_waiting: most texts that wait for an answer; further requests get the code 429.
        timeout: most seconds for a request, also while the server is being stopped.

    Raises:
        UserError: if something is not installed, a limit cannot be, the port is taken, or the
            encoder cannot be opened.
    """
    _require_packages()
    from llm2vec_pl.use.server.processes import run_until_stopped
    from llm2vec_pl.use.server.request import Limits

    limits = Limits(max_texts, max_characters, max_body, max_waiting, timeout)
    faults = Faults()
    faults.of(_require_limits, limits, batch_tokens)
    faults.of(_require_port, host, port)
    key = os.environ.get(KEY)
    faults.of(_require_key, key)
    faults.of(lambda: read_settings(locate(model_name)))
    faults.raise_all()
    name = name or Path(model_name).name
    overrides = {"prompts": prompts, "dtype": dtype, "quantization": quantization}
    given = {option: value for option, value in overrides.items() if value is not None}
    server = _built(model_name, given, batch_tokens, name, limits, key, accelerator, devices)
    if key is None and host != "127.0.0.1":
        print(f"Anybody who reaches port {port} can use this server: {KEY} is not set.")
    run_until_stopped(server, host, port, name)


def _built(
    model_name: str,
    overrides: dict[str, Any],
    batch_tokens: int | None,
    name: str,
    limits: Limits,
    key: str | None,
    accelerator: str,
    devices: int | str,
) -> LitServer:
    from litserve import LitServer
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    from llm2vec_pl.use.server.api import EncoderAPI
    from llm2vec_pl.use.server.page_routes import page_routes
    from llm2vec_pl.use.server.refusal import refuse_elsewhere
    from llm2vec_pl.use.server.spec import EmbeddingsSpec

    spec = EmbeddingsSpec(name, limits, key)
    api = EncoderAPI(model_name, overrides, batch_tokens, limits.seconds, spec)
    server = LitServer(
        api,
        accelerator=accelerator,  # type: ignore[arg-type]
        devices=devices,  # type: ignore[arg-type]
        timeout=False,
        disable_openapi_url=True,
    )
    server.uvicorn_graceful_timeout = int(limits.seconds) + 1
    # The first route that fits is taken: before LitServe's own page at /.
    server.app.router.routes[:0] = [*page_routes(), Route("/metrics", spec.metrics.page)]
    server.app.add_exception_handler(HTTPException, refuse_elsewhere)
    # LitServe compresses all replies, at the highest level; random numbers hardly shrink.
    server.app.user_middleware.clear()
    return server


def _require_packages() -> None:
    try:
        import litserve  # noqa: F401
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"The server needs LitServe and prometheus-client ({error}). Run `pip install "
            '"llm2vec_pl[serve]"`.'
        ) from error


def _require_limits(limits: Limits, batch_tokens: int | None) -> None:
    faults = Faults()
    numbers = {
        "max_texts": limits.texts,
        "max_characters": limits.characters,
        "max_body": limits.body,
        "max_waiting": limits.waiting,
        "timeout": limits.seconds,
        "batch_tokens": 1 if batch_tokens is None else batch_tokens,
    }
    for argument, number in numbers.items():
        with faults.noted():
            if not number > 0:
                raise UserError(f"`{argument}` is more than 0, but got {number}.")
    with faults.noted():
        if limits.waiting < limits.texts:
            raise UserError(
                f"`max_waiting` ({limits.waiting}) is smaller than `max_texts` ({limits.texts}): "
                "the largest request that is allowed would always be refused. Raise the one or "
                "lower the other."
            )
    faults.raise_all()


def _require_port(host: str, port: int) -> None:
    if not 1024 <= port <= 65535:
        raise UserError(f"`port` is from 1024 to 65535, but got {port}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise UserError(
                f"Cannot listen on port {port} of {host}: {error.strerror}. If another server "
                "runs there, stop it or choose another `port`."
            ) from error


def _require_key(key: str | None) -> None:
    if key is not None and not re.fullmatch(r"[!-~]+", key):
        problem = "is empty" if not key.strip() else "has spaces or characters other than ASCII"
        raise UserError(
            f"The environment variable {KEY} {problem}. Give it the key that clients must send, "
            "in letters, digits and punctuation, or unset it to let everybody in."
        )
