"""The layers of a decoder, whatever its architecture calls them, and evaluation mode."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn


def decoder_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers in the model's outermost lists, by name; some may serve other modalities only."""
    lists: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        nested = any(name.startswith(f"{outer}.") for outer in lists)
        if isinstance(module, nn.ModuleList) and not nested:
            lists[name] = module
    return {f"{name}.{i}": layer for name in lists for i, layer in enumerate(lists[name])}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a model in eval mode inside, and each module back in its former mode afterwards.

    Several threads may enter it at once, and a part of a model may be entered within the whole: a
    module gets its mode back when the last block that evaluates it ends.
    """
    modules = list(model.modules())
    with _counting:
        if any(module.training or id(module) in _held for module in modules):
            for module in modules:
                held = _held.setdefault(id(module), _Held(module, module.training))
                held.count += 1
            model.eval()
        else:  # a model that serves: there is nothing to do, once a text
            modules = []
    try:
        yield
    finally:
        with _counting:
            for module in modules:
                held = _held[id(module)]
                held.count -= 1
                if not held.count:
                    module.training = held.training
                    del _held[id(module)]


@dataclass
class _Held:
    """A module in eval mode: its former mode, and how many blocks evaluate it."""

    module: nn.Module  # kept alive, so that no other module gets its id
    training: bool
    count: int = 0


_held: dict[int, _Held] = {}


_counting = threading.Lock()
