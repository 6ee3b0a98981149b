"""Embeddings -> the body of a reply, as OpenAI defines it."""

from __future__ import annotations

import base64
import json
from typing import NamedTuple

import numpy as np


class Answer(NamedTuple):
    """What the encoder says to a request of N texts.

    Attributes:
        embeddings: (N, D) in float32, normalised.
        tokens: how many tokens the N texts have, with prompts and special tokens.
    """

    embeddings: np.ndarray
    tokens: int


def reply(answer: Answer, model: str, as_base64: bool) -> bytes:
    """The JSON of `CreateEmbeddingResponse`.

    Args:
        answer: N embeddings.
        model: the name that the client knows the encoder by.
        as_base64: each embedding as base64 of float32 in little-endian order, in place of numbers.
    """
    # One row at a time, so that other requests get their turn between two of them.
    rows = ",".join(
        f'{{"object":"embedding","index":{i},"embedding":{_one(row, as_base64)}}}'
        for i, row in enumerate(answer.embeddings)
    )
    usage = json.dumps({"prompt_tokens": answer.tokens, "total_tokens": answer.tokens})
    model = json.dumps(model)
    return f'{{"object":"list","data":[{rows}],"model":{model},"usage":{usage}}}'.encode()


def _one(row: np.ndarray, as_base64: bool) -> str:
    if as_base64:
        return f'"{base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")}"'
    return json.dumps(row.tolist())
