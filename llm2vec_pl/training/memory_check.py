"""The memory of a step: estimated before the first, and compared with what it then was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import override

from llm2vec_pl.distributed import is_sharded
from llm2vec_pl.training.batch_tokens import token_batches, token_count

if TYPE_CHECKING:
    from llm2vec_pl.training.memory import Step

QUARTER = 0.25
"""How far an estimate may be from what was measured, as a share of the estimate."""

COMPARED_AFTER = 2
"""Steps. AdamW makes its moments at the end of the first, so that the second is the fuller one."""


class Expected(NamedTuple):
    """What was estimated, in bytes.

    Args:
        total: on a CPU, of the whole process with its libraries; on a GPU, of all tensors.
        most: with a fragmented heap; the total on a GPU.
        passing: the part of it that grows with the tokens of a batch.
        tokens: of the batch that it is for.
        now: on a CPU, what the process had before the first step; 0 on a GPU.
        peak: the most memory before the first step.
    """

    total: int
    most: int
    passing: int
    tokens: int
    now: int
    peak: int


class MemoryCheck(Callback):
    """Prints how much memory a step will need and how much is free, before the first step.

    After the second, it prints what the memory was if the estimate was wrong by more than a
    quarter. On a CPU, both are of the whole process; on a GPU, of tensors, without CUDA's own.
    """

    def __init__(self) -> None:
        self._expected: Expected | None = None
        self._first_step = 0
        self._tokens = 0  # of the largest batch so far
        self._done = False

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._done or not trainer.is_global_zero:
            return
        tokens = token_count(batch, padded=not _packs(pl_module))
        if not self._tokens:
            self._first_step = trainer.global_step
            self._expected = announce_memory(trainer, pl_module, batch)
            self._done = self._expected is None
        self._tokens = max(self._tokens, tokens)

    @override
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        steps = trainer.global_step - self._first_step
        if self._done or self._expected is None or steps < COMPARED_AFTER:
            return
        self._done = True
        measured = peak_memory(pl_module.device)
        if measured is not None:
            line = difference(self._expected, measured, self._tokens)
            if line:
                rank_zero_info(line)


def difference(expected: Expected, peak: int, tokens: int) -> str | None:
    """A line on what was measured, if the estimate was wrong by more than a quarter; else None.

    If no step needed more than something before the first one, such as reading the weights, only
    that much is known: the peak of the steps is not above it.

    Args:
        expected: the estimate.
        peak: the most memory so far, in bytes.
        tokens: of the largest batch so far.
    """
    from llm2vec_pl.training.memory import gib

    grown = round((tokens / expected.tokens - 1) * expected.passing)
    total, most = expected.total + grown, max(expected.most, expected.total) + grown
    higher = peak > expected.peak
    if peak >= (1 - QUARTER) * total and not (higher and peak > (1 + QUARTER) * total):
        return None
    kind = "resident, its libraries included" if expected.now else "allocated"
    had = f"{gib(peak)} GiB {kind}" if higher else f"at most {gib(peak)} GiB {kind}"
    before = f" ({gib(expected.now)} before the first step)" if expected.now else ""
    heap = f", or up to {gib(most)} with a fragmented heap" if most > total else ""
    return (
        f"Memory for {COMPARED_AFTER} steps of at most {tokens:,} tokens: {had}{before}. About "
        f"{gib(total)} had been estimated{heap}."
    )


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that this process has had on a device so far; None if unknown."""
    from llm2vec_pl.training.memory import resident_peak

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident_peak() if device.type == "cpu" else None


def announce_memory(trainer: Trainer, module: LightningModule, batch: Any) -> Expected | None:
    """Prints the estimate for a batch as large as this one, and warns if it will not fit.

    Returns:
        The estimate; None if there is none, or nothing to compare it with.
    """
    encoder = getattr(module, "encoder", None)
    if encoder is None or not token_batches(batch):
        return None
    if not any(weight.requires_grad for weight in encoder.parameters()):
        return None  # frozen: a step keeps no activations
    from llm2vec_pl.training.memory import (
        estimate_of,
        free_memory,
        resident_after,
        resident_line,
        resident_now,
    )

    step, tokens = step_of(trainer, module, batch), token_count(batch, padded=not encoder.packs)
    memory, free = estimate_of(encoder, step), free_memory(module.device)
    title = f"Memory for a step of {tokens:,} tokens:"
    peak = peak_memory(module.device)
    now = resident_now() if step.device == "cpu" else None
    if now is None or memory.activations is None:
        rank_zero_info(f"{title} {memory.line(free, loaded=True)}")
        fits, total, most = memory.fits(free, loaded=True), memory.total, memory.total
    else:
        states = step.tokens * encoder.config.hidden_size * 4
        total, most = resident_after(memory, now, states)
        resident = resident_line(now, total, most, free)
        rank_zero_info(f"{title} {memory.line()} for tensors; {resident}")
        fits = None if free is None else most - now <= free
    if fits is False:
        rank_zero_warn(
            "That may not fit. To save memory, set a smaller --data.batch_size, "
            "--encoder.gradient_checkpointing true, --encoder.quantization nf4 or "
            "--trainer.strategy fsdp2."
        )
    if memory.activations is None or peak is None or not tokens:
        return None
    grows = getattr(module, "chunk_size", None) is None
    passing = memory.activations + memory.transient if grows else 0
    return Expected(total, most, passing, tokens, now or 0, peak)


def step_of(trainer: Trainer, module: LightningModule, batch: Any) -> Step:
    """What one device does in a step with a batch as large as this one."""
    from llm2vec_pl.training.memory import Step

    encoder: Any = module.encoder
    masks = [part["attention_mask"] for part in token_batches(batch)]
    texts = sum(len(mask) for mask in masks)
    tokens = token_count(batch, padded=not encoder.packs)
    chunk = getattr(module, "chunk_size", None) or texts
    return Step(
        tokens=-(-tokens * min(chunk, texts) // texts),
        length=max(mask.shape[1] for mask in masks),
        precision=str(trainer.precision),
        labels=getattr(module, "mask_probability", 0.0),
        accumulates=chunk < texts or trainer.accumulate_grad_batches > 1,
        devices=trainer.world_size,
        sharded=is_sharded(encoder),
        device="cuda" if module.device.type == "cuda" else "cpu",
    )


def _packs(module: LightningModule) -> bool:
    return bool(getattr(getattr(module, "encoder", None), "packs", False))
