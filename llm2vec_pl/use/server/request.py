"""The body of a request -> texts, with everything checked that needs no encoder.

Fields: https://platform.openai.com/docs/api-reference/embeddings/create, and `input_type`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from llm2vec_pl.use.server.refusal import Refusal

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """What the server takes: texts in a request, characters in a text, bytes in a body, and so on.

    Args:
        texts: most texts in one request.
        characters: most characters in one text.
        body: most MiB in the body of a request.
        waiting: most texts of all requests that are not yet answered.
        seconds: longest time between a request and its answer.
    """

    texts: int = 2048
    characters: int = 100_000
    body: int = 16
    waiting: int = 8192
    seconds: float = 300.0


@dataclass(frozen=True)
class Asked:
    """A request for the embeddings of N texts."""

    texts: list[str]
    input_type: str | None = None
    dimensions: int | None = None
    base64: bool = False


class _Body(BaseModel):
    """The fields of a request; `input` is checked apart, for messages that name the text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: Any
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None
    input_type: str | None = None


def parse(body: bytes, model: str, limits: Limits) -> Asked:
    """What a request asks for.

    Args:
        body: the JSON as it came.
        model: the name of the model that is served.
        limits: what the server takes.

    Raises:
        Refusal: with 400 for values, 404 for another model, 422 for types.
    """
    try:
        fields = _Body.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error) from None
    if fields.model not in (None, model):
        raise Refusal(
            404,
            f"The model {fields.model!r} is not served here, only {model!r}.",
            "model",
            "model_not_found",
        )
    if fields.dimensions is not None and fields.dimensions < 1:
        raise Refusal(
            400, f"`dimensions` is at least 1, but got {fields.dimensions}.", "dimensions"
        )
    return Asked(
        _texts(fields.input, limits),
        fields.input_type,
        fields.dimensions,
        fields.encoding_format == "base64",
    )


def _refusal(error: ValidationError) -> Refusal:
    """The first thing that is wrong with the fields."""
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(map(str, first["loc"])) or None
    kind, message = first["type"], first["msg"]
    if kind == "json_invalid":
        return Refusal(400, f"The body is not JSON. {message}.", code="invalid_json")
    if kind == "extra_forbidden":
        known = ", ".join(f"`{name}`" for name in _Body.model_fields)
        return Refusal(400, f"There is no field `{field}`, only {known}.", field, "unknown_field")
    if kind == "missing":
        return Refusal(400, f"`{field}` is missing.", field, "missing_field")
    if field is None:
        return Refusal(422, "The body is a JSON object with the field `input`.")
    status = 400 if kind == "literal_error" else 422
    return Refusal(status, f"`{field}`: {message}.", field)


def _texts(given: Any, limits: Limits) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list):
        raise _not_text("`input`", "a string or a list of strings", given)
    if not texts:
        raise Refusal(400, "`input` is an empty list. Give at least one text.", "input")
    if _are_tokens(texts):
        raise Refusal(
            400,
            "`input` holds token numbers, which mean something else to every tokenizer. Send the "
            "texts themselves (in LangChain: `check_embedding_ctx_length=False`).",
            "input",
            "tokens_not_supported",
        )
    if len(texts) > limits.texts:
        raise Refusal(
            400,
            f"`input` has {len(texts)} texts, but one request may have {limits.texts}. "
            "Send them in several requests.",
            "input",
            "too_many_texts",
        )
    for place, text in enumerate(texts):
        name = "`input`" if isinstance(given, str) else f"`input[{place}]`"
        if not isinstance(text, str):
            raise _not_text(name, "a string", text)
        if not text:
            raise Refusal(400, f"{name} is an empty string. Leave it out.", "input")
        if len(text) > limits.characters:
            raise Refusal(
                400,
                f"{name} has {len(text)} characters, but a text may have {limits.characters}. "
                "Split or shorten it.",
                "input",
                "text_too_long",
            )
    return texts


def _are_tokens(texts: list[Any]) -> bool:
    first = texts[0][0] if isinstance(texts[0], list) and texts[0] else texts[0]
    return isinstance(first, int) and not isinstance(first, bool)


def _not_text(name: str, expected: str, given: Any) -> Refusal:
    names = {dict: "an object", list: "a list", bool: "a boolean", type(None): "null"}
    found = names.get(type(given), "a number")
    return Refusal(422, f"{name} is {expected}, but got {found}.", "input")
