"""`POST /v1/embeddings` and `GET /v1/models`: from an HTTP request to the queue and back."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
import uuid
from typing import Any

from litserve.specs.base import LitSpec
from litserve.utils import ResponseBufferItem
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from llm2vec_pl.use.server.metrics import Metrics
from llm2vec_pl.use.server.refusal import Refusal
from llm2vec_pl.use.server.reply import Answer, reply
from llm2vec_pl.use.server.request import MIB, Asked, Limits, parse

_log = logging.getLogger(__name__)


class EmbeddingsSpec(LitSpec):
    """OpenAI's embeddings, with several texts in a request and requests encoded together.

    LitServe's own `OpenAIEmbeddingSpec` allows one or the other, and knows neither prompts nor
    limits.

    Args:
        model: the name that clients give in `model`.
        limits: what the server takes.
        api_key: what clients must send as a bearer token; None lets everybody in.
    """

    def __init__(self, model: str, limits: Limits, api_key: str | None) -> None:
        super().__init__()
        self.api_path = "/v1/embeddings"
        self._model, self._limits = model, limits
        self._api_key = None if api_key is None else api_key.encode()
        self._waiting = 0  # texts
        self.metrics = Metrics(lambda: self._waiting)
        self._started = int(time.time())

    def __getstate__(self) -> dict[str, Any]:
        """Only what the process that encodes needs of it: its path."""
        return {**LitSpec().__dict__, "api_path": self.api_path}

    def pre_setup(self, lit_api: Any) -> None:
        """Names the paths."""
        self.add_endpoint(self.api_path, self.embeddings, ["POST"])
        self.add_endpoint("/v1/models", self.models, ["GET"])

    async def embeddings(self, request: Request) -> Response:
        """Answers a request for embeddings, or says why not."""
        with self.metrics.timed():
            try:
                response = await self._answered(request)
            except Refusal as refusal:
                response = refusal.response()
            except ClientDisconnect:
                response = Refusal(499, "The client went away.").response()
            except Exception:
                _log.exception("A request failed.")
                response = Refusal(500, "The server failed; its log says why.").response()
        self.metrics.closed(response.status_code)
        return response

    async def models(self, request: Request) -> Response:
        """The one model that is served."""
        try:
            self._require_key(request)
        except Refusal as refusal:
            return refusal.response()
        model = {"id": self._model, "object": "model", "owned_by": "llm2vec_pl"}
        return JSONResponse({"object": "list", "data": [{**model, "created": self._started}]})

    async def _answered(self, request: Request) -> Response:
        self._require_key(request)
        body = await self._body(request)
        asked = await asyncio.to_thread(parse, body, self._model, self._limits)
        answer = await self._encoded(asked)
        content = await asyncio.to_thread(reply, answer, self._model, asked.base64)
        self.metrics.answered(len(asked.texts), answer.tokens)
        return Response(content, media_type="application/json")

    def _require_key(self, request: Request) -> None:
        if self._api_key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # In the same time wherever they differ, so that nobody can guess it letter by letter.
        same = hmac.compare_digest(given.strip().encode("latin-1"), self._api_key)
        if scheme.lower() != "bearer" or not same:
            raise Refusal(
                401,
                "This server wants its API key: `Authorization: Bearer KEY`.",
                code="invalid_api_key",
            )

    async def _body(self, request: Request) -> bytes:
        most = self._limits.body * MIB
        announced = request.headers.get("content-length", "")
        body = bytearray()
        if not announced.isdigit() or int(announced) <= most:
            async for part in request.stream():
                body += part
                if len(body) > most:
                    break
            else:
                return bytes(body)
        raise Refusal(
            413,
            f"The body of a request may have {self._limits.body} MiB. Send the texts in several "
            "requests.",
            code="body_too_large",
        )

    async def _encoded(self, asked: Asked) -> Answer:
        """Puts a request into the queue and waits for its answer."""
        if self._waiting + len(asked.texts) > self._limits.waiting:
            raise Refusal(
                429,
                f"{self._waiting} texts are waiting already, of {self._limits.waiting} at most. "
                "Try again later.",
                code="queue_full",
            )
        uid, item = uuid.uuid4().hex, ResponseBufferItem(asyncio.Event())
        self.response_buffer[uid] = item
        self._waiting += len(asked.texts)
        try:
            self.request_queue.put((self.response_queue_id, uid, time.monotonic(), asked))
            await asyncio.wait_for(item.event.wait(), self._limits.seconds)
        except asyncio.TimeoutError:
            raise Refusal(
                504, f"There was no answer within {self._limits.seconds:g} s.", code="timeout"
            ) from None
        finally:
            self._waiting -= len(asked.texts)
            del self.response_buffer[uid]
        answer, _ = item.response
        if isinstance(answer, Refusal):
            raise answer
        assert isinstance(answer, Answer)
        return answer
