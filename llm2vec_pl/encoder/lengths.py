"""What the host knows of tensors on a device, so that it need not ask, and sends there.

A program runs ahead of its GPU. To ask for a value that lies there, or a size that depends on one,
is to wait until the GPU has done all that it was told before, and then it stands idle in its turn.
Who knows the answer from before a batch went to the device notes it here; who needs it and finds no
note has to ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

Fact = TypeVar("Fact")


class Notes(Generic[Fact]):
    """Facts about tensors, each as long as its tensor is there and is not changed.

    They belong to the very tensor: of a slice or a changed copy nothing is known. A fact must not
    hold its own tensor, or both would stay for good.
    """

    def __init__(self) -> None:
        self._facts: Any = WeakIdKeyDictionary()

    def write(self, tensor: Tensor, fact: Fact) -> None:
        """Notes a fact about a tensor."""
        self._facts[tensor] = (_version(tensor), fact)

    def read(self, tensor: Tensor) -> Fact | None:
        """What is noted about a tensor; None for nothing."""
        version, fact = self._facts.get(tensor, (None, None))
        return fact if version == _version(tensor) else None


TEXT_LENGTHS: Notes[list[int]] = Notes()
"""Of attention masks (B, L): how many tokens each text has."""


def text_lengths(attention_mask: Tensor) -> list[int]:
    """How many tokens each text has, as noted; otherwise a GPU has to be waited for.

    Args:
        attention_mask: 1 on real tokens, 0 on padding, (B, L).
    """
    noted = TEXT_LENGTHS.read(attention_mask)
    return attention_mask.bool().sum(dim=1).tolist() if noted is None else noted


def send(values: Tensor | Sequence[Any] | float, device: torch.device) -> Tensor:
    """Values of the host as a tensor on a device, which is not waited for.

    Only what lies in pinned memory goes to a GPU while that works.
    """
    values = torch.as_tensor(values)
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def _version(tensor: Tensor) -> int:
    """Counts the changes in place; tensors of the inference mode are not counted."""
    return 0 if tensor.is_inference() else tensor._version
