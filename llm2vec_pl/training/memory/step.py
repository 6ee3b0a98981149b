"""What a training step does on one device, and the bytes that it needs there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch

from llm2vec_pl.training.memory.activations import Activations
from llm2vec_pl.training.memory.weight_sizes import HEAD, Weight

GIB = 2**30

LOGITS_AT_ONCE = 2**23
"""`NextTokenObjective.logits_at_once`, without Lightning's import."""

BYTES_PER_LOGIT = 8
"""Float32 twice, or float32 once and half precision twice: scaling logits makes a copy."""


@dataclass(frozen=True)
class Step:
    """What one device does in a training step.

    Args:
        tokens: number of tokens whose activations exist at once: those of the batch, or of
            `chunk_size` texts; padding does not count if the decoder runs padding-free.
        length: tokens of a text; attention without a fused kernel keeps the square of this.
        precision: Lightning's precision: "32-true", "bf16-true", "bf16-mixed", "16-mixed", …
        labels: the share of the tokens that the head predicts, such as MNTP's
            `mask_probability`; 0 for an objective without predictions.
        accumulates: whether gradients and activations exist at the same time: with chunks, or
            with `accumulate_grad_batches`.
        devices: number of devices of the whole run.
        sharded: whether FSDP2 shards the weights; otherwise each device has all of them.
        device: "cuda" or "cpu", which save different things for dropout.
    """

    tokens: int
    length: int = 512
    precision: str = "bf16-mixed"
    labels: float = 0.2
    accumulates: bool = False
    devices: int = 1
    sharded: bool = False
    device: str = "cuda"

    @property
    def autocast(self) -> torch.dtype | None:
        """The dtype of mixed precision; None without it."""
        if "mixed" not in self.precision:
            return None
        return torch.bfloat16 if self.precision.startswith("bf16") else torch.float16

    @property
    def rows(self) -> int:
        """Number of texts, rounded up."""
        return -(-self.tokens // self.width)

    @property
    def width(self) -> int:
        """Number of tokens of a text."""
        return min(self.tokens, self.length)


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the fullest moment of a step.

    Args:
        frozen: weights that are not trained.
        trained: weights that are trained: a LoRA, or all.
        optimizer: AdamW's two moments.
        gradients: gradients that exist at that moment, and DDP's buckets.
        activations: kept for the backward pass; None if the architecture could not be measured.
        transient: temporary: a layer computed again, logits, gathered layers.
    """

    frozen: int
    trained: int
    optimizer: int
    gradients: int
    activations: int | None
    transient: int

    @property
    def total(self) -> int:
        """The sum; without the activations if those are unknown."""
        known = (self.frozen, self.trained, self.optimizer, self.gradients, self.transient)
        return sum(known) + (self.activations or 0)

    def fits(self, free: int | None, loaded: bool = False) -> bool | None:
        """Whether this fits into `free` bytes; None if either is unknown.

        Args:
            free: from `free_memory`.
            loaded: whether the weights are on the device already, and so not among the free bytes.
        """
        if free is None or self.activations is None:
            return None
        return self.total <= free + (self.frozen + self.trained if loaded else 0)

    def line(self, free: int | None = None, loaded: bool = False) -> str:
        """Everything in one line, in GiB or MiB; the arguments are those of `fits`."""
        unit, shown = ("GiB", gib) if self.total >= GIB else ("MiB", lambda v: f"{v / 2**20:,.0f}")
        parts = {
            "frozen weights": self.frozen,
            "trained weights": self.trained,
            "optimizer": self.optimizer,
            "gradients": self.gradients,
            "activations": self.activations,
            "transient": self.transient,
        }
        terms = [f"{k} {'unknown' if v is None else shown(v)}" for k, v in parts.items() if v != 0]
        line = f"{' + '.join(terms)} = {shown(self.total)} {unit}"
        if free is None:
            return line
        return f"{line} of {gib(free + (self.frozen + self.trained if loaded else 0))} GiB free"


def gib(size: float) -> str:
    """Bytes as GiB with one decimal, or two below 1 GiB."""
    return f"{size / GIB:,.{1 if size >= GIB else 2}f}"


# The sum ----------------------------------------------------------------------------------------


def add_up(
    weights: Sequence[Weight], activations: Activations | None, step: Step, vocabulary: int
) -> Memory:
    """The fuller of two moments: the beginning and the end of the backward pass.

    The optimizer's step needs no further memory: it is fused.
    """
    shards = step.devices if step.sharded else 1
    frozen = sum(_share(w, shards) for w in weights if not w.trained)
    trained = sum(_share(w, shards) for w in weights if w.trained)
    buckets = trained if step.devices > 1 and shards == 1 else 0  # DDP's
    kept, beside, last = 0, 0, 0
    if activations is not None:
        kept, beside, last = activations.kept, activations.transient, activations.last
    own_head = sum(w.size for w in weights if w.trained and w.group == HEAD)
    gathered = _gathered(weights) if shards > 1 else 0
    decoded = max((w.count for w in weights if w.quantized), default=0) * 2  # one layer at a time
    moments = (
        (
            buckets + (trained if step.accumulates else own_head if step.labels else 0),
            kept,
            gathered
            + max(beside + decoded, _head(weights, step, vocabulary) if step.labels else 0),
        ),
        (buckets + trained, 0, gathered + last + decoded),
    )
    gradients, kept, transient = max(moments, key=sum)
    known = kept if activations is not None else None
    return Memory(frozen, trained, 2 * trained, gradients, known, transient)


def _share(weight: Weight, shards: int) -> int:
    return -(-weight.size // shards) if weight.shards else weight.size


def _gathered(weights: Sequence[Weight]) -> int:
    """Two groups that FSDP2 holds whole, one of them in advance, and the gradients of two."""
    groups: Counter[str] = Counter()
    gradients: Counter[str] = Counter()
    for weight in weights:
        if weight.shards:
            groups[weight.group] += weight.size
            gradients[weight.group] += weight.size * weight.trained
    return sum(size for each in (groups, gradients) for _, size in each.most_common(2))


def _head(weights: Sequence[Weight], step: Step, vocabulary: int) -> int:
    """A chunk of logits, the head in half precision, and the head's gradient."""
    head = max((w for w in weights if w.group == HEAD), key=lambda w: w.count, default=None)
    if head is None:
        return 0
    cast = 2 * head.count if step.autocast and head.size == 4 * head.count else 0
    logits = min(max(1, LOGITS_AT_ONCE // vocabulary), ceil(step.labels * step.tokens)) * vocabulary
    return BYTES_PER_LOGIT * logits + cast + head.size * head.trained
