"""Reads the `llm2vec_config.json` of `llm2vec`, the reference implementation, in our terms."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from llm2vec_pl.errors import UserError

POOLINGS = {"mean": "mean", "weighted_mean": "weighted_mean", "last_token": "last"}
"""The `pooling` that gives the same as each `pooling_mode` of the reference."""

OWN_TOKENS = {
    "eos_token": "the state of an end token that it writes after each text",
    "bos_token": "the state of the begin token",
}
"""Modes that pool a token outside the text, which no `pooling` here does."""


def reference_settings(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Encoder` for a configuration of the reference (llm2vec 0.2.3).

    Args:
        settings: the content of `llm2vec_config.json`; one of ours gives nothing.
        overrides: arguments that the user gives instead.

    Raises:
        UserError: if no `pooling` matches the `pooling_mode`, unless the user gives one.
    """
    if "pooling_mode" not in settings:
        return {}
    if settings.get("skip_instruction") is False:
        warnings.warn(
            "llm2vec_config.json has skip_instruction false: the reference pools an instruction "
            "with its text. Here, write it into the text, since `instruction` is not pooled.",
            stacklevel=3,
        )
    longest, length = settings.get("doc_max_length"), settings.get("max_length", 512)
    if longest is not None and longest < length and "max_length" not in overrides:
        warnings.warn(
            f"llm2vec_config.json has doc_max_length {longest}: the reference cuts a text, without "
            "its instruction, at about that many tokens. Here the two together are cut at "
            f"{length} tokens, unless you set `max_length`.",
            stacklevel=3,
        )
    mode = settings["pooling_mode"]
    if "pooling" in overrides:
        return {}
    if mode in POOLINGS:
        return {"pooling": POOLINGS[mode]}
    pools = OWN_TOKENS.get(mode, "something else")
    raise UserError(
        f"llm2vec_config.json has pooling_mode {mode!r}: the reference pools {pools}, but here "
        "only a text's own tokens are pooled. To open it anyway, with other embeddings, set "
        "`pooling` to mean, weighted_mean, last or first."
    )
