"""Checks of an encoder's arguments, before any weights are read."""

from __future__ import annotations

import warnings
from typing import Any, get_args

from transformers import PretrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llm2vec_pl.decoder import LEARNED_POSITIONS
from llm2vec_pl.errors import UserError


def require_one_of(name: str, value: Any, choices: Any, optional: bool = False) -> None:
    """Checks an argument that has a fixed set of values.

    Args:
        name: of the argument.
        value: of the argument.
        choices: the `Literal` of its possible values.
        optional: whether it may be None.

    Raises:
        UserError: if it is anything else.
    """
    known = get_args(choices)
    if not (value is None and optional) and value not in known:
        *others, last = map(str, known)
        raise UserError(
            f"`{name}` is {', '.join(others)} or {last}{', or None' if optional else ''}, "
            f"but got {value!r}."
        )


def require_attention(attention: str | None) -> None:
    """Checks an attention implementation; a name with a slash is that of a kernel on the hub.

    Raises:
        UserError: if transformers does not know the name.
    """
    known = {"eager", *ALL_ATTENTION_FUNCTIONS}
    if attention is not None and attention not in known and "/" not in str(attention):
        raise UserError(
            f"`attention` is one of {', '.join(sorted(known))}, or None, but got {attention!r}."
        )


def require_lora(rank: int, dropout: float) -> None:
    """Checks the numbers of a LoRA.

    Raises:
        UserError: if one of them is out of range.
    """
    if rank < 0:
        raise UserError(f"`lora_rank` is at least 1, or 0 for no LoRA, but got {rank}.")
    if not 0 <= dropout < 1:
        raise UserError(f"`lora_dropout` lies in [0, 1), but got {dropout}.")


def position_limit(config: PretrainedConfig) -> int | None:
    """How many tokens a decoder has positions for; None if there is no limit.

    Learned positions are limited, and so are some tables of computed ones. Rotary angles and most
    ALiBi slopes are computed for any length, however well a model copes with it.

    Args:
        config: of the text decoder.
    """
    name = LEARNED_POSITIONS.get(config.model_type)
    return int(getattr(config, name)) if name else None


def longest_text(max_length: int, config: PretrainedConfig) -> int:
    """`max_length`, or the tokens that the decoder has positions for, with a warning."""
    limit = position_limit(config)
    if limit is None or max_length <= limit:
        return max_length
    warnings.warn(
        f"`max_length={max_length}`: {config.model_type} has positions for {limit} tokens only. "
        "Longer texts are cut there.",
        stacklevel=3,
    )
    return limit


def require_positions(tokens: int, config: PretrainedConfig) -> None:
    """Checks that a decoder has positions for a row; without them, a process on a GPU crashes.

    Raises:
        UserError: if it has fewer.
    """
    limit = position_limit(config)
    if limit is not None and tokens > limit:
        raise UserError(
            f"{config.model_type} has positions for {limit} tokens, but got a row of {tokens}. Set "
            f"`max_length` of the encoder, and `data.max_length`, to {limit} at most."
        )
