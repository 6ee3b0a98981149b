"""What every objective shares: an encoder, a loss to override, an optimizer and its schedule."""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from llm2vec_pl.bidirectional import check_bidirectional
from llm2vec_pl.console import RunProgressBar
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.fsdp2 import load_encoder
from llm2vec_pl.gather import Repeated, mean_over_ranks
from llm2vec_pl.host import TEXT_LENGTHS, text_lengths
from llm2vec_pl.objectives.training_state import (
    named_state,
    numbered_state,
    require_same_weights,
)
from llm2vec_pl.optimizer import adamw
from llm2vec_pl.sharding import average_gradients, clip_gradients
from llm2vec_pl.text import TokenBatch
from llm2vec_pl.weights import cast_weights

Schedule = Literal["linear", "cosine", "constant"]


class Objective(LightningModule):
    """Trains an encoder. A new objective overrides `loss` and is a class of about ten lines.

    Args:
        encoder: what is trained; its weights are loaded when the trainer asks for them.
        learning_rate: the highest, after warm-up.
        warmup_steps: optimizer steps of linear warm-up; below 1, their share of all steps.
        schedule: how the learning rate falls after that: to 0 at the last step, or not at all.
        weight_decay: AdamW's.
    """

    def __init__(
        self,
        encoder: Encoder,
        learning_rate: float = 5e-5,
        warmup_steps: float = 0.1,
        schedule: Schedule = "linear",
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.schedule = schedule
        self.weight_decay = weight_decay
        # Checkpoints hold what is trained; the rest comes from the encoder's own source.
        self.strict_loading = False

    def loss(self, batch: Any) -> Tensor:
        """The scalar to minimise. Override this.

        Args:
            batch: what the data module gives, on the device.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define loss(batch).")

    def forward(self, batch: TokenBatch) -> Tensor:
        """The embeddings of a token batch, (B, D)."""
        embeddings: Tensor = self.encoder(batch)
        return embeddings

    def configure_model(self) -> None:
        """Loads the encoder, once; shared out among the ranks under FSDP2."""
        load_encoder(self, self.encoder)

    def to(self, *args: Any, **kwargs: Any) -> Objective:
        """Moves the module; a dtype is for frozen weights, as in `--trainer.precision bf16-true`.

        A LoRA stays in float32, as do buffers and an objective's own weights. Without a LoRA all
        weights of the encoder are trained in that dtype.
        """
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype is None:
            return super().to(*args, **kwargs)
        cast_weights(self.encoder, dtype)
        return super().to(device) if device is not None else self

    def on_fit_start(self) -> None:
        """Proves step 1 on the loaded weights before the first step."""
        if self.encoder.bidirectional:
            check_bidirectional(self.encoder.decoder)
        for optimizer in self.trainer.optimizers:  # before a checkpoint's state goes into them
            optimizer.register_load_state_dict_pre_hook(self._by_number)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step on the loss, logged as `train/loss`."""
        loss = self.loss(batch)
        bar = self.trainer.progress_bar_callback
        # Lightning waits in each step for what it puts in a bar; this package's asks by itself.
        in_bar = bar is not None and not isinstance(bar, RunProgressBar)
        self.log_mean("loss", loss, row_count(batch), prog_bar=in_bar)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The loss on held-out data, logged as `val/loss`, the mean over rows."""
        self.log_mean("loss", self.loss(batch), row_count(batch), prog_bar=True)

    def log_mean(self, name: str, value: Tensor, rows: int, prog_bar: bool = False) -> None:
        """Logs `train/NAME` or `val/NAME`, the mean over ranks.

        Args:
            name: of the metric.
            value: of a batch on this rank: a scalar.
            rows: of the batch; in validation, its weight in the mean over the rows of all ranks.
            prog_bar: whether Lightning's progress bar shows it.
        """
        options: Any = {"batch_size": rows, "prog_bar": prog_bar}
        if self.training:
            self.log(f"train/{name}", mean_over_ranks(value), **options)
        else:
            value = value if rows else torch.zeros_like(value)  # which may be NaN
            self.log(f"val/{name}", value, sync_dist=True, **options)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW on the trainable weights, with warm-up and decay that fit the run's length."""
        from transformers import get_scheduler

        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise UserError(
                "The learning rate's schedule needs the length of the run: set "
                "--trainer.max_steps or --trainer.max_epochs."
            )
        warmup = self.warmup_steps if self.warmup_steps >= 1 else self.warmup_steps * steps
        optimizer = self.optimizer()
        scheduler = get_scheduler(self.schedule, optimizer, round(warmup), int(steps))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def optimizer(self) -> Optimizer:
        """AdamW, which decays matrices only; override it for another."""
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return adamw([g for g in groups if g["params"]], lr=self.learning_rate)

    def notes(self) -> dict[str, Any]:
        """What `llm2vec_config.json` says about the training, for those who use the encoder."""
        return {}

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Moves a batch, and notes what a step would have to ask the device: the texts' lengths."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        for here, there in zip(token_batches(batch), token_batches(moved), strict=True):
            TEXT_LENGTHS.write(there["attention_mask"], text_lengths(here["attention_mask"]))
        return moved

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Draws this step's randomness from seed, step and rank: a resumed run draws the same."""
        torch.manual_seed(self.seed_of(self.trainer.fit_loop.epoch_loop.total_batch_idx))

    def seed_of(self, step: int, *more: int) -> int:
        """A seed for one step on this rank.

        Args:
            step: the number of the batch in the run.
            more: what tells several seeds of a step apart.
        """
        seed = [int(os.environ.get("PL_GLOBAL_SEED") or 0), step, self.global_rank, *more]
        return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])

    def on_after_backward(self) -> None:
        """Under FSDP2, averages over ranks the gradients of what each has whole.

        What was averaged before, while gradients are accumulated, stays as it is.
        """
        if self.device_mesh is not None:
            average_gradients(self.parameters())

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by the norm of all gradients, or by value; under FSDP2 those of all ranks."""
        if self.device_mesh is not None and gradient_clip_val:
            clip_gradients(self.parameters(), gradient_clip_val, gradient_clip_algorithm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the trained weights only, an adapter's size, and names what the optimizer has."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in weights.items() if k in trained}
        states = checkpoint.get("optimizer_states", [])
        for i, optimizer in enumerate(self.trainer.optimizers if states else []):
            states[i] = named_state(states[i], optimizer, self)
        checkpoint["objective"] = {"name": type(self).__name__, "notes": self.notes()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses the checkpoint of another model, which would be read as if nothing were amiss."""
        if checkpoint.get("state_dict"):
            require_same_weights(checkpoint["state_dict"], self)

    def _by_number(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return numbered_state(state, optimizer, self)


def token_batches(batch: Any) -> list[TokenBatch]:
    """The token batches in a batch, which may be one itself; none in what is no such thing."""
    if not isinstance(batch, dict):
        return []
    parts = [batch, *batch.values()]
    return [part for part in parts if isinstance(part, dict) and "attention_mask" in part]


def row_count(batch: Any) -> int:
    """The rows of the first tensor in a batch, however it is nested; 0 of one that is repeated."""
    if isinstance(batch, Repeated):
        return 0
    while isinstance(batch, dict):
        batch = next(iter(batch.values()))
    return len(batch)
