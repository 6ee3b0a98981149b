"""What Prometheus reads at `/metrics`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class Metrics:
    """Requests by code, texts, tokens, seconds, and what waits.

    Args:
        waiting: gives the number of texts that are not yet answered.
    """

    def __init__(self, waiting: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "llm2vec_pl_requests", "Requests for embeddings.", ["code"], registry=registry
        )
        self._seconds = Histogram(
            "llm2vec_pl_request_seconds",
            "From a request to its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._texts = Histogram(
            "llm2vec_pl_request_texts",
            "Texts in an answered request.",
            buckets=_TEXTS,
            registry=registry,
        )
        self._tokens = Counter(
            "llm2vec_pl_tokens", "Tokens of answered requests.", registry=registry
        )
        gauge = Gauge("llm2vec_pl_waiting_texts", "Texts not yet answered.", registry=registry)
        gauge.set_function(waiting)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Counts the seconds of a request."""
        start = time.perf_counter()
        yield
        self._seconds.observe(time.perf_counter() - start)

    def answered(self, texts: int, tokens: int) -> None:
        """Counts the texts and tokens of an answer."""
        self._texts.observe(texts)
        self._tokens.inc(tokens)

    def closed(self, code: int) -> None:
        """Counts a request by its status."""
        self._requests.labels(code=str(code)).inc()

    async def page(self, request: Request) -> Response:
        """`/metrics`."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)
