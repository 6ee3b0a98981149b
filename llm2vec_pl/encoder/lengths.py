"""Lengths of texts that the host knows, and ways to send and check without waiting for a device.

A program runs ahead of its GPU. Asking for a value that is there, or for a size that depends on
one, means waiting until the GPU has done everything it was told before, and then the GPU stands
idle in its turn. Whatever a step needs on the host is therefore a key of its batch, written before
the batch goes to the device. A batch without that key works as well, but then the host has to wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

CHECKED_ON = ("cpu", "cuda")  # where torch can check without waiting


def lengths_of(attention_mask: Tensor) -> tuple[int, ...]:
    """How many tokens each text has, counted from the mask, which waits for a GPU.

    Args:
        attention_mask: 1 on real tokens, 0 on padding, (B, L).
    """
    return tuple(attention_mask.bool().sum(dim=1).tolist())


def text_lengths(attention_mask: Tensor, lengths: Sequence[int] | None = None) -> tuple[int, ...]:
    """How many tokens each text has, as the batch says, or counted if it does not.

    Args:
        attention_mask: 1 on real tokens, 0 on padding, (B, L).
        lengths: the batch's `text_lengths`, (B,) numbers on the host; None if it has none.

    Raises:
        ValueError: if the lengths do not fit the shape of the mask.
        RuntimeError: if they are not those of the mask; on a GPU a failed assertion, some time
            later.
    """
    if lengths is None:
        return lengths_of(attention_mask)
    rows, width = attention_mask.shape
    longest = max(lengths, default=0)
    if len(lengths) != rows or longest > width:
        raise ValueError(
            f"The batch's text_lengths are for {len(lengths)} texts of up to {longest} tokens, but "
            f"its attention_mask has shape {(rows, width)}. {_REMEDY}"
        )
    told = send(list(lengths), attention_mask.device)
    require(
        (attention_mask.bool().sum(dim=1) == told).all(),
        f"The batch's text_lengths do not match its attention_mask. {_REMEDY}",
    )
    return tuple(lengths)


_REMEDY = "If you change the mask, change text_lengths too, or take it out of the batch."


def require(condition: Tensor, message: str) -> None:
    """Checks a condition on its device, without waiting for it.

    Args:
        condition: a boolean scalar.
        message: of the error if it is false.

    Raises:
        RuntimeError: if it is false; on a GPU a failed assertion, some time later.
    """
    if condition.device.type in CHECKED_ON:
        torch._assert_async(condition, message)


def send(values: Tensor | Sequence[Any] | float, device: torch.device) -> Tensor:
    """Values of the host as a tensor on a device, sent without waiting for it.

    A GPU can go on working only while it receives values from pinned memory.
    """
    return pinned(torch.as_tensor(values), device).to(device, non_blocking=True)


def pinned(values: Tensor, device: torch.device) -> Tensor:
    """The same values in memory from which they can be sent to this device without waiting."""
    on_host = values.device.type == "cpu"
    return values.pin_memory() if on_host and device.type == "cuda" else values
