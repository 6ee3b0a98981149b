"""What `llm2vec`, the reference implementation, writes into `llm2vec_config.json`, in our terms."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from llm2vec_pl.errors import UserError

POOLINGS = {"mean": "mean", "weighted_mean": "weighted_mean", "last_token": "last"}
"""The reference's `pooling_mode`, and our `pooling` that gives the same."""

OWN_TOKENS = {
    "eos_token": "the state of an end token that it writes after each text",
    "bos_token": "the state of the begin token",
}
"""Modes that pool a token which is not of the text, as no pooling of ours does."""


def reference_settings(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Encoder` for a configuration of the reference (llm2vec 0.2.3).

    Args:
        settings: the content of `llm2vec_config.json`; one of ours gives nothing.
        overrides: arguments that the user gives instead.

    Raises:
        UserError: for a `pooling_mode` that there is no pooling for, unless one is given.
    """
    if "pooling_mode" not in settings:
        return {}
    if settings.get("skip_instruction") is False:
        warnings.warn(
            "llm2vec_config.json says skip_instruction false: an instruction is pooled with its "
            "text. Write it into the text, not in `instruction`, which is not pooled.",
            stacklevel=3,
        )
    longest, length = settings.get("doc_max_length"), settings.get("max_length", 512)
    if longest is not None and longest < length and "max_length" not in overrides:
        warnings.warn(
            f"llm2vec_config.json says doc_max_length {longest}: the reference cuts a text without "
            f"its instruction at about so many tokens. Here it is cut at {length} with it, unless "
            "you set max_length.",
            stacklevel=3,
        )
    mode = settings["pooling_mode"]
    if "pooling" in overrides:
        return {}
    if mode in POOLINGS:
        return {"pooling": POOLINGS[mode]}
    pools = OWN_TOKENS.get(mode, "something else")
    raise UserError(
        f"llm2vec_config.json says pooling_mode {mode!r}: the reference pools {pools}, and here "
        "only a text's own tokens are pooled. To open it with other embeddings, name a pooling: "
        "mean, weighted_mean, last or first."
    )
