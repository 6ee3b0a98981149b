"""What objectives for words share: the states of words, from an encoder that is usually frozen."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor

from llm2vec_pl.encoder import Encoder, TokenBatch, word_count, word_states
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives.base import Objective, Schedule

TrainEncoder = Literal["none", "lora", "full"]


class WordObjective(Objective):
    """Trains on the states of words. A new objective overrides `build` and `loss`.

    Args:
        encoder: gives the hidden states.
        shift: 0 takes a word's states at its own tokens; 1 takes them one position earlier, where
            MNTP predicts those tokens.
        train_encoder: `none` freezes the encoder, in evaluation mode, so that only the layers of
            the objective are trained; `lora` trains a LoRA on it too, as `lora_rank` and the like
            say; `full` all of its weights.
        learning_rate: the highest learning rate, reached after warm-up.
        warmup_steps: optimizer steps of linear warm-up; below 1, a share of all steps.
        schedule: how the learning rate falls after warm-up.
        weight_decay: AdamW's weight decay.

    Raises:
        UserError: if an argument does not fit the encoder.
    """

    def __init__(
        self,
        encoder: Encoder,
        shift: int = 0,
        train_encoder: TrainEncoder = "none",
        learning_rate: float = 5e-4,
        warmup_steps: float = 0.0,
        schedule: Schedule = "linear",
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(encoder, learning_rate, warmup_steps, schedule, weight_decay)
        if shift not in (0, 1):
            raise UserError(f"`shift` is 0 or 1, but got {shift!r}.")
        if train_encoder not in get_args(TrainEncoder):
            raise UserError(
                f"`train_encoder` is one of {', '.join(get_args(TrainEncoder))}, but got "
                f"{train_encoder!r}."
            )
        self.shift = shift
        self.train_encoder = train_encoder
        self.labels: list[str] = []
        self._is_built = False
        self._require_what_is_trained()

    @property
    def is_frozen(self) -> bool:
        """Whether the encoder stays as it is."""
        return self.train_encoder == "none"

    def word_states(self, batch: TokenBatch) -> Tensor:
        """The states of all words of a batch that have a token, sentence by sentence.

        Args:
            batch: `input_ids`, `attention_mask` and `word_index`, each (B, L); or `word_states`, as
                for `shifted_states`.

        Returns:
            (W, D) in float32, without a gradient if the encoder is frozen.
        """
        return self.shifted_states(batch, [self.shift])[0]

    def shifted_states(self, batch: TokenBatch, shifts: Sequence[int]) -> list[Tensor]:
        """The states of words for several shifts, from one pass through the encoder.

        Args:
            batch: as for `word_states`. If it holds `word_states`, kept from an earlier pass, these
                are used and the encoder is not run: (2, W, D) for shift 0 and shift 1.
            shifts: 0, 1 or both.

        Returns:
            (W, D) in float32 for each shift.
        """
        if "word_states" in batch:
            kept: Tensor = batch["word_states"]
            return [kept[shift].float() for shift in shifts]
        with torch.no_grad() if self.is_frozen else nullcontext():
            states = self.encoder.hidden_states(batch)
            index, count = batch["word_index"], batch.get("word_count")
            return [word_states(states, index, shift, count) for shift in shifts]

    def setup(self, stage: str) -> None:
        """Builds the layers for the labels of the data, once.

        Raises:
            UserError: if they were built for other labels.
        """
        labels = list(getattr(getattr(self.trainer, "datamodule", None), "labels", None) or [])
        if self._is_built and self.labels != labels:
            raise UserError(
                f"These layers are for the labels {', '.join(self.labels[:8])}, but the data has "
                f"{', '.join(labels[:8])}. Train new ones, or give data with the same labels."
            )
        self.build_for(labels)

    def build_for(self, labels: Sequence[str]) -> None:
        """Builds the layers, if they are not there yet."""
        if not self._is_built:
            self.build(labels)
            self.labels, self._is_built = list(labels), True

    def build(self, labels: Sequence[str]) -> None:
        """Makes the layers on top of the words' states. Override this.

        Args:
            labels: those of the data, in the order of their classes; empty if it has none.
        """

    def configure_model(self) -> None:
        """Loads the encoder, and freezes it if it is not trained."""
        super().configure_model()
        if self.is_frozen:
            self.encoder.requires_grad_(False)

    def begin_training(self) -> None:
        """Training mode for all that is trained; a frozen encoder drops nothing."""
        super().begin_training()
        if self.is_frozen:
            self.encoder.eval()

    def prepared(self, batch: TokenBatch) -> TokenBatch:
        """As `Objective.prepared`, with `word_count`: W, how many words have a token."""
        prepared = super().prepared(batch)
        if "word_index" in batch:
            prepared["word_count"] = word_count(batch["word_index"])
        return prepared

    def _require_what_is_trained(self) -> None:
        encoder = self.encoder
        if self.train_encoder == "lora" and not encoder.lora_rank:
            raise UserError(
                '`train_encoder="lora"` trains a LoRA, but `lora_rank` is 0. Set `lora_rank` above '
                '0, or `train_encoder="full"` to train all weights.'
            )
        if self.train_encoder != "lora" and encoder.lora_rank:
            if encoder.is_loaded and not self.is_frozen:
                raise UserError(
                    f'`train_encoder="full"` trains all weights, but the encoder has a LoRA of '
                    f"rank {encoder.lora_rank}. Load it with `lora_rank=0`."
                )
            if not encoder.is_loaded:
                encoder.lora_rank = 0  # a new LoRA that is not trained would only take time
