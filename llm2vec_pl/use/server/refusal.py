"""Why a request is not answered, in the form that OpenAI's clients turn into their own errors."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Refusal(Exception):  # noqa: N818
    """A request that gets an error code in place of embeddings; survives pickling.

    Args:
        status: the HTTP status, 400 to 599.
        message: what was expected, what came, what to do.
        param: the field of the request that is at fault.
        code: a word for programs.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(status, message, param, code)
        self.status, self.message, self.param, self.code = status, message, param, code

    def response(self) -> JSONResponse:
        """`{"error": {"message", "type", "param", "code"}}`."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, kind),
            "param": self.param,
            "code": self.code,
        }
        headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}}
        return JSONResponse({"error": error}, self.status, headers.get(self.status))


async def refuse_elsewhere(request: Request, error: Any) -> JSONResponse:
    """What the framework itself refuses, such as an unknown path, in the same form."""
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.url.path}"
    return Refusal(error.status_code, message).response()
