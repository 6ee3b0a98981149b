"""Before step 1: an ordinary language model, trained left to right. Makes the embedded decoder."""

from __future__ import annotations

from torch.optim import Optimizer

from llm2vec_pl.bidirectional import check_causal
from llm2vec_pl.encoder import Encoder, TokenBatch
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives.base import Schedule
from llm2vec_pl.objectives.masking import IGNORED
from llm2vec_pl.objectives.next_token import NextTokenObjective
from llm2vec_pl.objectives.optimizer import muon_and_adamw


class CausalLM(NextTokenObjective):
    """Next token prediction with causal attention, for pre-training a small decoder.

    Hidden matrices are trained with Muon and the rest with AdamW; under FSDP2, all with AdamW.

    Args:
        encoder: a causal encoder, with all weights trained.
        learning_rate: the highest learning rate, reached after warm-up.
        warmup_steps: optimizer steps of linear warm-up; below 1, a share of all steps.
        schedule: how the learning rate falls after warm-up.
        weight_decay: weight decay of the hidden matrices.

    Raises:
        UserError: if the encoder is bidirectional: each token would see the one it predicts.
    """

    logits_at_once = 2**28  # every token is a label: fewer, larger chunks

    def __init__(
        self,
        encoder: Encoder,
        learning_rate: float = 3e-3,
        warmup_steps: float = 0.05,
        schedule: Schedule = "linear",
        weight_decay: float = 0.1,
    ) -> None:
        if encoder.bidirectional:
            raise UserError(
                "CausalLM expects a causal encoder, but got a bidirectional one, in which each "
                "token sees the one that it predicts. Set `bidirectional=False`."
            )
        super().__init__(encoder, learning_rate, warmup_steps, schedule, weight_decay)

    def on_fit_start(self) -> None:
        """Proves on the loaded weights that no token sees the one that it predicts."""
        super().on_fit_start()
        check_causal(self.encoder.decoder)

    def labelled(self, batch: TokenBatch) -> TokenBatch:
        """Every token that is not padding is a label."""
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        return {**batch, "labels": labels}

    def optimizer(self) -> Optimizer:
        """Muon on hidden matrices, AdamW on embeddings and norms; under FSDP2 AdamW on all."""
        if self.device_mesh is not None:  # Muon needs whole matrices
            return super().optimizer()
        return muon_and_adamw(self.encoder, self.learning_rate, self.weight_decay)
