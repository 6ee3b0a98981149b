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
from llm2vec_pl.distributed import Repeated, average_gradients, clip_gradients, mean_over_ranks
from llm2vec_pl.distributed.fsdp2 import load_encoder
from llm2vec_pl.encoder import (
    TEXT_LENGTHS,
    Encoder,
    TokenBatch,
    cast_weights,
    recorded_origin,
    require_same_origin,
    text_lengths,
)
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives.optimizer import adamw, set_rates
from llm2vec_pl.objectives.training_state import (
    named_state,
    numbered_state,
    require_same_weights,
)
from llm2vec_pl.training.console import RunProgressBar

Schedule = Literal["linear", "cosine", "constant"]


class Objective(LightningModule):
    """Trains an encoder. A new objective overrides `loss` and is a class of about ten lines.

    A fit trains in training mode, whatever mode the encoder comes in: `begin_training`.

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
        self._validated_step: int | None = None
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

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """Takes weights over, into an encoder that is loaded for them if it is not yet.

        After `ddp_spawn` and in a notebook Lightning brings home what other processes have
        trained; this one has not loaded anything, and would let all of it drop.
        """
        if any(name.startswith("encoder.") for name in state_dict):
            self.configure_model()
        return super().load_state_dict(state_dict, *args, **kwargs)

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

    def begin_training(self) -> None:
        """Puts the objective, its encoder and the decoder in training mode, each with its parts.

        `Encoder.from_pretrained` gives an encoder in evaluation mode and Lightning leaves modes as
        they are: without this, dropout would be off for the whole run. A part that was put in
        evaluation mode on purpose stays so if what it belongs to is in training mode: call
        `train()` on the objective first, then `eval()` on the part.
        """
        self.forget_validation()
        for module in (self, self.encoder, getattr(self.encoder, "decoder", None)):
            if module is not None and not module.training:
                module.train()

    def on_fit_start(self) -> None:
        """Begins training mode, and proves step 1 on the loaded weights before the first step."""
        self.begin_training()
        if self.encoder.bidirectional:
            check_bidirectional(self.encoder.decoder)
        for optimizer in self.trainer.optimizers:  # before a checkpoint's state goes into them
            optimizer.register_load_state_dict_pre_hook(self._by_number)

    def on_train_start(self) -> None:
        """Begins training mode here as well, for an objective with an `on_fit_start` of its own.

        A run that goes on to more steps than before begins with the rate of its new schedule: a
        checkpoint holds the old one's, which may have been 0.
        """
        self.begin_training()
        for configured in self.trainer.lr_scheduler_configs:
            set_rates(configured.scheduler)

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

    def on_validation_epoch_end(self) -> None:
        """Notes of which step the metrics are that have just been measured."""
        if not self.trainer.sanity_checking:
            self._validated_step = self.trainer.global_step

    def forget_validation(self) -> None:
        """Says that the metrics there are are of other weights."""
        self._validated_step = None

    def validation_metrics(self) -> dict[str, float] | None:
        """The metrics `val/...` of the weights as they are; None if only older ones are known."""
        if self._validated_step is None or self._validated_step != self.trainer.global_step:
            return None
        metrics = self.trainer.callback_metrics
        return {k: float(v) for k, v in metrics.items() if k.startswith("val/")}

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
        # transformers' own "constant" has no warm-up.
        schedule = "constant_with_warmup" if self.schedule == "constant" else self.schedule
        scheduler = get_scheduler(schedule, optimizer, round(warmup), int(steps))
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
            there.update((key, _counted(value)) for key, value in there.items())
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
        """Keeps the trained weights only, an adapter's size, and names what the optimizer has.

        Beside them `metrics`, those of a validation of these very weights.
        """
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in weights.items() if k in trained}
        states = checkpoint.get("optimizer_states", [])
        for i, optimizer in enumerate(self.trainer.optimizers if states else []):
            states[i] = named_state(states[i], optimizer, self)
        checkpoint["rendered_template"] = self.encoder.tokenize.rendered  # it may print the date
        checkpoint["origin"] = recorded_origin(self.encoder)
        checkpoint["objective"] = {"name": type(self).__name__, "notes": self.notes()}
        checkpoint["metrics"] = self.validation_metrics() or {}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses the checkpoint of another model, which would be read as if nothing were amiss."""
        require_same_origin(checkpoint, self.encoder, "--resume")
        self.encoder.tokenize.freeze(checkpoint.get("rendered_template"))
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


@torch.inference_mode(False)
def _counted(value: Any) -> Any:
    """A value; of a tensor made for inference, whose changes in place nobody counts, a copy.

    What is noted of a tensor holds until it is changed.
    """
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def row_count(batch: Any) -> int:
    """The rows of the first tensor in a batch, however it is nested; 0 of one that is repeated."""
    if isinstance(batch, Repeated):
        return 0
    while isinstance(batch, dict):
        batch = next(iter(batch.values()))
    return len(batch)
