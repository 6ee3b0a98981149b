"""Starts the server, and sees to it that all its processes end with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llm2vec_pl.decoder import locate, read_settings
from llm2vec_pl.encoder import Dtype
from llm2vec_pl.errors import Faults
from llm2vec_pl.use.server.checks import (
    KEY,
    Accelerator,
    found_accelerator,
    require_devices,
    require_key,
    require_limits,
    require_packages,
    require_port,
)

if TYPE_CHECKING:
    from litserve import LitServer

    from llm2vec_pl.use.server.api import EncoderAPI
    from llm2vec_pl.use.server.spec import EmbeddingsSpec

Host = Literal["127.0.0.1", "0.0.0.0", "::"]


def serve(
    model_name: str,
    host: Host = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    prompts: dict[str, str] | None = None,
    dtype: Dtype | None = None,
    quantization: Literal["int8_dynamic"] | None = None,
    accelerator: Accelerator = "auto",
    devices: int | Literal["auto"] = "auto",
    workers: int = 1,
    batch_tokens: int | None = None,
    max_texts: int = 2048,
    max_characters: int = 100_000,
    max_body: int = 16,
    max_waiting: int = 8192,
    timeout: float = 300.0,
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
        quantization: `int8_dynamic` multiplies in 8 bits on a CPU.
        accelerator: where to encode; `auto` takes GPUs if there are any.
        devices: how many GPUs, each with its own copy of the encoder; all by default.
        workers: processes that encode on each device, each with its own copy of the encoder. On a
            CPU they share its cores, and together answer more requests a second, while a request
            that comes alone has fewer cores to itself.
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
    require_packages()
    from llm2vec_pl.use.server.api import EncoderAPI
    from llm2vec_pl.use.server.processes import run_until_stopped
    from llm2vec_pl.use.server.request import Limits
    from llm2vec_pl.use.server.spec import EmbeddingsSpec

    limits = Limits(max_texts, max_characters, max_body, max_waiting, timeout)
    faults = Faults()
    faults.of(require_limits, limits, batch_tokens, workers)
    faults.of(require_port, host, port)
    key = os.environ.get(KEY)
    faults.of(require_key, key)
    faults.of(require_devices, accelerator, devices)
    faults.of(lambda: read_settings(locate(model_name)))
    faults.raise_all()
    name = name or Path(model_name).resolve().name
    overrides = {"prompts": prompts, "dtype": dtype, "quantization": quantization}
    given = {option: value for option, value in overrides.items() if value is not None}
    spec = EmbeddingsSpec(name, limits, key)
    api = EncoderAPI(model_name, given, batch_tokens, timeout, spec, workers)
    if key is None and host != "127.0.0.1":
        print(f"Anybody who reaches port {port} can use this server: {KEY} is not set.")
    run_until_stopped(_built(api, spec, accelerator, devices, workers), host, port, name)


def _built(
    api: EncoderAPI,
    spec: EmbeddingsSpec,
    accelerator: Accelerator,
    devices: int | Literal["auto"],
    workers: int,
) -> LitServer:
    from litserve import LitServer
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    from llm2vec_pl.use.server.page_routes import page_routes
    from llm2vec_pl.use.server.refusal import refuse_elsewhere

    server = LitServer(
        api,
        accelerator=found_accelerator(accelerator),
        devices=devices,
        workers_per_device=workers,
        timeout=False,
        disable_openapi_url=True,
    )
    server.uvicorn_graceful_timeout = int(api.seconds) + 1
    # The first route that fits is taken: before LitServe's own page at /.
    server.app.router.routes[:0] = [*page_routes(), Route("/metrics", spec.metrics.page)]
    server.app.add_exception_handler(HTTPException, refuse_elsewhere)
    # LitServe compresses all replies, at the highest level; random numbers hardly shrink.
    server.app.user_middleware.clear()
    return server
