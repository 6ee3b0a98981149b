"""What every objective shares: an encoder, a loss to override, an optimizer and its schedule."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from llm2vec_pl.bidirectional import check_bidirectional
from llm2vec_pl.distributed import Repeated, average_gradients, clip_gradients, mean_over_ranks
from llm2vec_pl.encoder import (
    Encoder,
    TokenBatch,
    cast_weights,
    lengths_of,
    pinned,
    recorded_origin,
    require_same_origin,
)
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives.load import load_encoder
from llm2vec_pl.objectives.optimizer import adamw, set_rates
from llm2vec_pl.objectives.training_state import (
    named_state,
    numbered_state,
    require_same_weights,
)

Schedule = Literal["linear", "cosine", "constant"]


class Objective(LightningModule):
    """Trains an encoder. A new objective overrides `loss` and is a class of about ten lines.

    `fit` trains in training mode, whatever mode the encoder was in: see `begin_training`.

    Args:
        encoder: the encoder to train; its weights are loaded when the trainer asks for them.
        learning_rate: the highest learning rate, reached after warm-up.
        warmup_steps: optimizer steps of linear warm-up; below 1, a share of all steps.
        schedule: how the learning rate falls after warm-up: to 0 at the last step, or not at all.
        weight_decay: AdamW's weight decay.
    """

    reads_texts = False
    """Whether the batches of contrastive data shall hold their texts, for use on the host."""

    opened_by = "Encoder"
    """The class that opens what a run leaves."""

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
            batch: a batch from the data module, on the device.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define loss(batch).")

    def forward(self, batch: TokenBatch) -> Tensor:
        """The embeddings of a token batch, (B, D)."""
        embeddings: Tensor = self.encoder(batch)
        return embeddings

    def configure_model(self) -> None:
        """Loads the encoder, once; under FSDP2 it is sharded over the ranks."""
        load_encoder(self, self.encoder)

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """Takes over weights, after loading the encoder if it is not loaded yet.

        After `ddp_spawn` and in a notebook, Lightning hands this process the weights that other
        processes have trained. It has not loaded an encoder itself, and would drop all of them.
        """
        if any(name.startswith("encoder.") for name in state_dict):
            self.configure_model()
        return super().load_state_dict(state_dict, *args, **kwargs)

    def to(self, *args: Any, **kwargs: Any) -> Objective:
        """Moves the module; a dtype applies to frozen weights, as with the precision `bf16-true`.

        A LoRA, buffers and the objective's own weights stay in float32. Without a LoRA, all
        weights of the encoder are trained in that dtype.
        """
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype is None:
            return super().to(*args, **kwargs)
        cast_weights(self.encoder, dtype)
        return super().to(device) if device is not None else self

    def begin_training(self) -> None:
        """Puts the objective, its encoder and the decoder in training mode, each with its parts.

        `Encoder.from_pretrained` returns an encoder in evaluation mode, and Lightning leaves modes
        as they are: without this, dropout would be off for the whole run. To keep a part in
        evaluation mode on purpose, call `train()` on the objective first, then `eval()` on the
        part.
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
        """Begins training mode here too, for objectives with an `on_fit_start` of their own.

        A run resumed for more steps starts at the learning rate of its new schedule: the
        checkpoint holds the rate of the old schedule, which may have been 0.

        The encoder keeps the data module's `prompts`, its tasks' instructions, if there are any.
        """
        self.begin_training()
        self.encoder.add_prompts(getattr(self.trainer.datamodule, "prompts", {}))  # type: ignore[attr-defined]
        for configured in self.trainer.lr_scheduler_configs:
            set_rates(configured.scheduler)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step on the loss, logged as `train/loss`."""
        loss = self.loss(batch)
        bar = self.trainer.progress_bar_callback
        # For a value in its bar, Lightning waits in each step; this package's bar fetches its own.
        in_bar = bar is not None and not getattr(bar, "asks_for_the_loss", False)
        self.log_mean("loss", loss, row_count(batch), prog_bar=in_bar)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The loss on held-out data, logged as `val/loss`, the mean over rows."""
        self.log_mean("loss", self.loss(batch), row_count(batch), prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        """Notes the step whose metrics have just been measured."""
        if not self.trainer.sanity_checking:
            self._validated_step = self.trainer.global_step

    def forget_validation(self) -> None:
        """Notes that the metrics so far belong to other weights."""
        self._validated_step = None

    def validation_metrics(self) -> dict[str, float] | None:
        """The metrics `val/...` of the current weights; None if only older ones are known."""
        if self._validated_step is None or self._validated_step != self.trainer.global_step:
            return None
        metrics = self.trainer.callback_metrics
        return {k: float(v) for k, v in metrics.items() if k.startswith("val/")}

    def log_mean(self, name: str, value: Tensor, rows: int, prog_bar: bool = False) -> None:
        """Logs `train/NAME` or `val/NAME`, the mean over ranks.

        Args:
            name: the metric's name.
            value: its value for a batch on this rank, a scalar.
            rows: rows in the batch; in validation, the batch's weight in the mean over all ranks.
            prog_bar: whether Lightning's progress bar shows it.
        """
        options: Any = {"batch_size": rows, "prog_bar": prog_bar}
        if self.training:
            self.log(f"train/{name}", mean_over_ranks(value), **options)
        else:
            value = value if rows else torch.zeros_like(value)  # it may be NaN
            self.log(f"val/{name}", value, sync_dist=True, **options)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW on the trainable weights, with warm-up and decay that fit the run's length."""
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise UserError(
                "The learning rate's schedule needs the length of the run, but it has no limit. "
                "Set `Trainer(max_steps=N)` or `Trainer(max_epochs=N)`."
            )
        return self.optimizers_for(int(steps))

    def optimizers_for(self, steps: int) -> OptimizerLRSchedulerConfig:
        """The optimizer and its schedule for a run of so many steps."""
        from transformers import get_scheduler

        warmup = self.warmup_steps if self.warmup_steps >= 1 else self.warmup_steps * steps
        optimizer = self.optimizer()
        # transformers' own "constant" has no warm-up.
        schedule = "constant_with_warmup" if self.schedule == "constant" else self.schedule
        scheduler = get_scheduler(schedule, optimizer, round(warmup), steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def optimizer(self) -> Optimizer:
        """AdamW, which decays matrices only; override this for another optimizer."""
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return adamw([g for g in groups if g["params"]], lr=self.learning_rate)

    def notes(self) -> dict[str, Any]:
        """What `llm2vec_config.json` says about the training, for users of the encoder."""
        return {}

    def save_beside(self, folder: Path) -> None:
        """Writes what users of the encoder need beside it into its folder; nothing by default."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """A copy of a batch whose token batches are `prepared`, ready for the device.

        If the data module overrides this hook, Lightning calls that one instead: batches are then
        not prepared, and a step asks the device for what it needs to know.
        """
        trainer = self._trainer
        device = trainer.strategy.root_device if trainer else torch.device("cpu")

        def ready(tokens: TokenBatch) -> TokenBatch:
            prepared = self.prepared(tokens).items()
            return {k: pinned(v, device) if isinstance(v, Tensor) else v for k, v in prepared}

        return with_token_batches(batch, ready)

    def prepared(self, batch: TokenBatch) -> TokenBatch:
        """A token batch on the host, with what a step would otherwise have to ask the device for.

        Adds `text_lengths`, (B,). A loss that changes the attention mask must change these too, or
        take them out of the batch: lengths that do not fit the mask are an error.

        Args:
            batch: `attention_mask`, (B, L), and any other keys.
        """
        return {**batch, "text_lengths": lengths_of(batch["attention_mask"])}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds this step with seed, step and rank: a resumed run draws the same numbers."""
        torch.manual_seed(self.seed_of(self.trainer.fit_loop.epoch_loop.total_batch_idx))

    def seed_of(self, step: int, *more: int) -> int:
        """A seed for one step on this rank.

        Args:
            step: the number of the batch in the run.
            more: further numbers, for several different seeds in one step.
        """
        seed = [int(os.environ.get("PL_GLOBAL_SEED") or 0), step, self.global_rank, *more]
        return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])

    def on_after_backward(self) -> None:
        """Under FSDP2, averages the gradients of unsharded weights over the ranks.

        While gradients are accumulated, averaging again leaves earlier averages unchanged.
        """
        if self.device_mesh is not None:
            average_gradients(self.parameters())

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by the norm of all gradients, under FSDP2 over all ranks, or by value."""
        if self.device_mesh is not None and gradient_clip_val:
            clip_gradients(self.parameters(), gradient_clip_val, gradient_clip_algorithm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps only the trained weights, and names the parameters in the optimizer's state.

        With a LoRA a checkpoint is as small as the adapter. `metrics` are those of a validation of
        exactly these weights, if there was one.
        """
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in weights.items() if k in trained}
        states = checkpoint.get("optimizer_states", [])
        for i, optimizer in enumerate(self.trainer.optimizers if states else []):
            states[i] = named_state(states[i], optimizer, self)
        checkpoint["rendered_template"] = self.encoder.tokenize.rendered  # it may print the date
        checkpoint["prompts"] = self.encoder.prompts
        checkpoint["origin"] = recorded_origin(self.encoder)
        checkpoint["objective"] = {"name": type(self).__name__, "notes": self.notes()}
        checkpoint["metrics"] = self.validation_metrics() or {}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses the checkpoint of another model, which would otherwise load without an error."""
        require_same_origin(checkpoint, self.encoder, "`ckpt_path`")
        self.encoder.tokenize.freeze(checkpoint.get("rendered_template"))
        if checkpoint.get("state_dict"):
            require_same_weights(checkpoint["state_dict"], self)

    def _by_number(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return numbered_state(state, optimizer, self)


def with_token_batches(batch: Any, change: Callable[[TokenBatch], TokenBatch]) -> Any:
    """A copy of a batch with each token batch changed: the batch itself, or those that it holds.

    Args:
        batch: a dictionary; anything else is returned unchanged.
        change: takes a token batch and returns its replacement.
    """
    if not isinstance(batch, dict):
        return batch
    changed = copy.copy(batch)  # of its own class, such as `Repeated`
    changed.update({key: with_token_batches(value, change) for key, value in batch.items()})
    if "attention_mask" in changed:
        changed.update(change(changed))
    return changed


def row_count(batch: Any) -> int:
    """The number of rows of a batch's first tensor, however nested; 0 for a repeated batch."""
    if isinstance(batch, Repeated):
        return 0
    while isinstance(batch, dict):
        batch = next(iter(batch.values()))
    return len(batch)
