"""What must be right before any process is started."""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING, Literal

import torch

from llm2vec_pl.errors import Faults, UserError

if TYPE_CHECKING:
    from llm2vec_pl.use.server.request import Limits

KEY = "LLM2VEC_PL_API_KEY"
"""The environment variable with the key that clients must send."""

Accelerator = Literal["auto", "cpu", "cuda", "mps"]


def require_packages() -> None:
    """Raises a `UserError` unless the optional packages are there."""
    try:
        import litserve  # noqa: F401
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"The server needs LitServe and prometheus-client ({error}). Run `pip install "
            '"llm2vec_pl[serve]"`.'
        ) from error


def require_limits(limits: Limits, batch_tokens: int | None, workers: int) -> None:
    """Raises a `UserError` with all limits under which nothing could be answered."""
    faults = Faults()
    numbers = {
        "max_texts": limits.texts,
        "max_characters": limits.characters,
        "max_body": limits.body,
        "max_waiting": limits.waiting,
        "timeout": limits.seconds,
        "batch_tokens": 1 if batch_tokens is None else batch_tokens,
        "workers": workers,
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


def require_port(host: str, port: int) -> None:
    """Raises a `UserError` if nobody can listen there."""
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


def require_key(key: str | None) -> None:
    """Raises a `UserError` unless clients can send this key, and no other is asked for."""
    if key is not None and not re.fullmatch(r"[!-~]+", key):
        problem = "is empty" if not key.strip() else "has spaces or characters other than ASCII"
        raise UserError(
            f"The environment variable {KEY} {problem}. Give it the key that clients must send, "
            "in letters, digits and punctuation, or unset it to let everybody in."
        )
    if "LIT_SERVER_API_KEY" in os.environ:
        raise UserError(
            "LIT_SERVER_API_KEY is set, with which LitServe asks for a header that OpenAI's "
            f"clients do not send. Set {KEY} in its place."
        )


def require_devices(accelerator: Accelerator, devices: int | Literal["auto"]) -> None:
    """Raises a `UserError` unless the machine has these."""
    found = found_accelerator(accelerator)
    if found == "mps" and not torch.backends.mps.is_available():
        raise UserError('`accelerator="mps"` is for Apple\'s GPUs, and torch finds none here.')
    if found == "cuda" and not torch.cuda.is_available():
        raise UserError('`accelerator="cuda"` needs a GPU, and torch finds none here.')
    most = torch.cuda.device_count() if found == "cuda" else 1
    if devices != "auto" and not 1 <= devices <= most:
        raise UserError(
            f"`devices` is from 1 to {most} with `accelerator={found!r}` here, but got {devices}."
        )


def found_accelerator(accelerator: Accelerator) -> Literal["cpu", "cuda", "mps"]:
    """Where torch can compute, if that was left open."""
    if accelerator != "auto":
        return accelerator
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
