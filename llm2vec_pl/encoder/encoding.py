"""Texts -> embeddings, in batches of similar lengths; also from several threads at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llm2vec_pl.decoder import evaluating
from llm2vec_pl.distributed import is_sharded
from llm2vec_pl.encoder.packing import batches_by_length
from llm2vec_pl.errors import UserError

if TYPE_CHECKING:
    from llm2vec_pl.encoder.encoder import Encoder

BYTES_AT_ONCE = 4096
"""Tokens that go through a decoder at once on a CPU, times the bytes of a number.

In float32 they are 1,024. More do not stay in the cache between one operation and the next; fewer
make the matrix products small.
"""

BATCHES_AHEAD = 16
"""Batches whose texts are tokenised together, so that they can be grouped by length."""

_sharded_one_at_a_time = threading.RLock()


def encode(
    encoder: Encoder,
    texts: list[str],
    instructions: list[str],
    batch_size: int,
    done: Callable[[int], Any],
) -> Tensor:
    """The embeddings of texts, (N, D), in their order; `done` hears how many more there are."""
    encoder.load()
    with _ordinary_tensors(encoder), evaluating(encoder):
        return _encode(encoder, texts, instructions, batch_size, done)


def whole_batch_size(batch_size: int) -> int:
    """A batch size as Python's own integer: numpy's small ones overflow when multiplied.

    Raises:
        UserError: if it is not a positive whole number.
    """
    # The message has no backquotes: this is not the `batch_size` of a command line's data.
    if isinstance(batch_size, bool) or not isinstance(batch_size, Integral) or batch_size < 1:
        raise UserError(f"batch_size is a whole number of at least 1 text, but got {batch_size!r}.")
    return int(batch_size)


def _encode(
    encoder: Encoder,
    texts: list[str],
    instructions: list[str],
    batch_size: int,
    done: Callable[[int], Any],
) -> Tensor:
    weights = next(encoder.parameters())
    device = weights.device
    budget = BYTES_AT_ONCE // weights.itemsize if device.type == "cpu" else float("inf")
    embeddings = torch.empty(len(texts), encoder.embedding_size, dtype=torch.float32)
    # Texts of similar length together: less padding.
    order = sorted(
        range(len(texts)), key=lambda i: len(instructions[i]) + len(texts[i]), reverse=True
    )
    for start in range(0, len(order), BATCHES_AHEAD * batch_size):
        ahead = order[start : start + BATCHES_AHEAD * batch_size]
        tokens = encoder.tokenize([texts[i] for i in ahead], [instructions[i] for i in ahead])
        lengths = tokens["attention_mask"].sum(dim=1).tolist()
        for rows in batches_by_length(lengths, batch_size, budget, padded=not encoder.packs):
            batch = {k: v[rows, : lengths[rows[0]]].to(device) for k, v in tokens.items()}
            embeddings[[ahead[i] for i in rows]] = encoder(batch).cpu()
            done(len(rows))
    return embeddings


@contextlib.contextmanager
def _ordinary_tensors(module: nn.Module) -> Iterator[None]:
    """Turns off gradients, but not by inference mode, whose tensors could not be trained later.

    Inference mode is hardly faster, and it marks for good all that is created in it: results,
    positions that a decoder caches, weights that FSDP2 gathers.
    """
    # Sharded layers keep track of one pass at a time. Looking for them takes long for a short text.
    sharded = dist.is_available() and dist.is_initialized() and is_sharded(module)
    alone = _sharded_one_at_a_time if sharded else contextlib.nullcontext()
    with alone, torch.inference_mode(False), torch.no_grad():
        yield
