"""What the host need not ask of a device, and how it sends and checks without waiting.

A program runs ahead of its GPU. To ask for a value that lies there, or a size that depends on one,
is to wait until the GPU has done all that it was told before, and then it stands idle in its turn.
Whatever a step has to know on the host is therefore a key of its batch, written before the batch
goes to the device; a batch without that key works as well, but then the device is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

CHECKED_ON = ("cpu", "cuda")  # where torch can check without waiting


def lengths_of(attention_mask: Tensor) -> tuple[int, ...]:
    """How many tokens each text has, counted: a GPU has to be waited for.

    Args:
        attention_mask: 1 on real tokens, 0 on padding, (B, L).
    """
    return tuple(attention_mask.bool().sum(dim=1).tolist())


def text_lengths(attention_mask: Tensor, lengths: Sequence[int] | None = None) -> tuple[int, ...]:
    """How many tokens each text has, as the batch says, or counted where it does not.

    Args:
        attention_mask: 1 on real tokens, 0 on padding, (B, L).
        lengths: the batch's `text_lengths`, (B,) numbers on the host; None if it has none.

    Raises:
        ValueError: if the lengths cannot be those of this mask, because of its shape.
        RuntimeError: if they are not; on a GPU a failed assertion, some time later.
    """
    if lengths is None:
        return lengths_of(attention_mask)
    rows, width = attention_mask.shape
    longest = max(lengths, default=0)
    if len(lengths) != rows or longest > width:
        raise ValueError(
            f"The batch's text_lengths are of {len(lengths)} texts of up to {longest} tokens, but "
            f"its attention_mask is {(rows, width)}. {_REMEDY}"
        )
    told = send(list(lengths), attention_mask.device)
    require(
        (attention_mask.bool().sum(dim=1) == told).all(),
        f"The batch's text_lengths are not those of its attention_mask. {_REMEDY}",
    )
    return tuple(lengths)


_REMEDY = "Where the mask changes, change text_lengths too, or take it out of the batch."


def require(condition: Tensor, message: str) -> None:
    """Checks on the device, which is not waited for.

    Args:
        condition: a boolean scalar.
        message: what is wrong if it is false.

    Raises:
        RuntimeError: if it is false; on a GPU a failed assertion, some time later.
    """
    if condition.device.type in CHECKED_ON:
        torch._assert_async(condition, message)


def send(values: Tensor | Sequence[Any] | float, device: torch.device) -> Tensor:
    """Values of the host as a tensor on a device, which is not waited for.

    Only what lies in pinned memory goes to a GPU while that works.
    """
    return pinned(torch.as_tensor(values), device).to(device, non_blocking=True)


def pinned(values: Tensor, device: torch.device) -> Tensor:
    """The same values in memory from which they go to this device without a wait."""
    on_host = values.device.type == "cpu"
    return values.pin_memory() if on_host and device.type == "cuda" else values
