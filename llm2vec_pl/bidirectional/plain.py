"""transformers as it is without this package, for a while.

The masks of `make_bidirectional` and packed attention are entries in registries of transformers,
which belong to the process. Whether a model reads both ways without them shows only where they are
out of the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llm2vec_pl.bidirectional.switch import wrapped_by_us


@contextmanager
def plain_transformers() -> Iterator[None]:
    """Takes this package's masks and attention out of transformers until the block ends.

    Meanwhile, no encoder of this process may run, in any thread.
    """
    registries: tuple[Any, ...] = (ALL_MASK_ATTENTION_FUNCTIONS, ALL_ATTENTION_FUNCTIONS)
    ours = [
        (registry, name, registry[name])
        for registry in registries
        for name in registry
        if wrapped_by_us(registry[name])
    ]
    for registry, name, entry in ours:
        while wrapped_by_us(entry):
            entry = entry.__wrapped__
        registry.register(name, entry)
    try:
        yield
    finally:
        for registry, name, entry in ours:
            registry.register(name, entry)
