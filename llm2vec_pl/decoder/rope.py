"""Rotary positions that depend on the length of a text: each text gets those of its own length.

When a text is longer than the context that the model was first trained on, longrope switches to
slower frequencies, and dynamic NTK scaling slows them down further with each token. transformers
goes by the longest text in the batch and in earlier batches, so the embedding of one text would
depend on others.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LONGROPE, DYNAMIC = "longrope", "dynamic"

_one_at_a_time = threading.Lock()  # a module holds the frequencies while it runs


def use_own_lengths(decoder: nn.Module) -> None:
    """Gives each text in a batch the rotary positions that it has alone; in place.

    This also holds for copies of the decoder and in other processes.

    Args:
        decoder: with or without a LoRA; left alone if its positions do not depend on lengths.
    """
    for module in decoder.modules():
        if any(_depends_on_length(kind) for kind in _kinds(module)):
            vars(module)["forward"] = functools.partial(_forward, module)


@torch.compiler.disable  # type: ignore[untyped-decorator]
@torch.no_grad()
def _forward(
    module: Any, x: Tensor, position_ids: Tensor, layer_type: str | None = None, **kwargs: Any
) -> Any:
    """What the rotary module returns for positions (..., L), each text by its own length.

    Where several texts lie end to end in a row, each one begins at position 0.
    """
    by_type = {} if layer_type is None else {"layer_type": layer_type}
    run = functools.partial(type(module).forward, module, x, **by_type, **kwargs)
    kind = module.rope_type if layer_type is None else module.rope_type[layer_type]
    if not _depends_on_length(kind):
        return run(position_ids)
    with _one_at_a_time:
        if kind == LONGROPE:
            return _longrope(run, position_ids, _original_context(module, layer_type))
        return _dynamic(run, position_ids, module, layer_type)


def _longrope(run: Callable[[Tensor], Any], position_ids: Tensor, context: int) -> Any:
    if position_ids.shape[-1] <= context:
        return run(position_ids)
    long = lengths(position_ids) > context
    short_ones, long_ones = (run(position_ids.masked_fill(out, 0)) for out in (long, ~long))
    return _where(long, long_ones, short_ones)


def _dynamic(
    run: Callable[[Tensor], Any], position_ids: Tensor, module: Any, layer_type: str | None
) -> Any:
    own, context = lengths(position_ids), module.original_max_seq_len
    _forget_longer_texts(module, layer_type)
    result = run(position_ids.masked_fill(own > context, 0))
    if position_ids.shape[-1] > context:
        for length in own[own > context].unique().tolist():
            _forget_longer_texts(module, layer_type)
            result = _where(own == length, run(position_ids.masked_fill(own != length, 0)), result)
    return result


def lengths(position_ids: Tensor) -> Tensor:
    """The length of the text that each token belongs to, (..., L).

    Args:
        position_ids: (..., L), beginning at 0 in each text.

    >>> lengths(torch.tensor([[0, 1, 2, 0, 1], [0, 0, 0, 1, 1]])).tolist()
    [[3, 3, 3, 2, 2], [1, 1, 2, 2, 2]]
    """
    text = (position_ids == 0).cumsum(dim=-1)  # (..., L)
    longest = torch.zeros_like(torch.nn.functional.pad(position_ids, (0, 1)))
    longest = longest.scatter_reduce(-1, text, position_ids + 1, "amax")
    return longest.gather(-1, text)


def _kinds(module: nn.Module) -> list[str]:
    kinds = getattr(module, "rope_type", None)
    if isinstance(kinds, dict):
        return list(kinds.values())
    return [kinds] if isinstance(kinds, str) else []


def _depends_on_length(kind: str) -> bool:
    return kind == LONGROPE or DYNAMIC in kind


def _original_context(module: Any, layer_type: str | None) -> int:
    rope = module.config.rope_parameters
    rope = rope if layer_type is None else rope[layer_type]
    return int(rope["original_max_position_embeddings"])


def _forget_longer_texts(module: Any, layer_type: str | None) -> None:
    """Restores the frequencies for texts within the original context."""
    prefix = "" if layer_type is None else f"{layer_type}_"
    frequencies = getattr(module, f"{prefix}inv_freq")
    original = getattr(module, f"{prefix}original_inv_freq").to(frequencies.device)
    module.register_buffer(f"{prefix}inv_freq", original, persistent=False)
    setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def _where(which: Tensor, chosen: Any, other: Any) -> Any:
    """`chosen` at the tokens that `which` (..., L) marks, else `other`; (..., L, E), or tuples."""
    if isinstance(chosen, tuple):
        return tuple(_where(which, *pair) for pair in zip(chosen, other, strict=True))
    while which.dim() >= chosen.dim():  # the same positions three times, as for images
        which = which[0]
    return torch.where(which.unsqueeze(-1), chosen, other)
