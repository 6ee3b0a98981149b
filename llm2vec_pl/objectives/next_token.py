"""What MNTP and causal language modelling share: labels, the head, accuracy and perplexity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from llm2vec_pl.distributed import mean_over_ranks
from llm2vec_pl.encoder import TokenBatch, require, send
from llm2vec_pl.objectives.base import Objective, row_count
from llm2vec_pl.objectives.losses import is_label, label_places, next_token_loss


class Perplexity(MeanMetric):
    """exp of the mean loss."""

    def compute(self) -> Tensor:
        """The perplexity so far."""
        return super().compute().exp()


class NextTokenObjective(Objective):
    """Predicts labelled tokens, each from the state before it; logs accuracy and perplexity too.

    A subclass chooses the labels in `labelled`. The arguments are those of `Objective`.
    """

    logits_at_once = 2**23  # in a chunk: 32 MB in float32, whatever the vocabulary

    def labelled(self, batch: TokenBatch) -> TokenBatch:
        """The batch with `labels` (B, L): the token to predict, or -100.

        The trainer calls this before a batch goes to the device, where counting the labels would
        mean waiting: random numbers are drawn on the CPU.
        """
        raise NotImplementedError

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """As for any objective; in training with a seed of this step's. Keeps the random state."""
        before = torch.get_rng_state()
        if self.training and self._trainer is not None:
            # Not the dropout's seed, which would draw the same numbers.
            step = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready
            torch.default_generator.manual_seed(self.seed_of(step, 1))
        batch = super().on_before_batch_transfer(batch, dataloader_idx)
        torch.set_rng_state(before)
        return batch

    def prepared(self, batch: TokenBatch) -> TokenBatch:
        """A token batch on the host with `labels` (B, L), and their places, `label_places` (M,).

        A loss that changes the labels must take the places out of the batch: places that do not
        fit the labels are an error. In `Trainer.predict`, which only embeds, a batch gets no
        labels.
        """
        batch = super().prepared(batch)
        predicts = self._trainer is not None and self.trainer.predicting
        if "input_ids" not in batch or predicts:
            return batch
        batch = self._with_labels(batch)
        return {**batch, "label_places": label_places(batch["labels"])}

    def _with_labels(self, batch: TokenBatch) -> TokenBatch:
        return batch if "labels" in batch else self.labelled(batch)

    def configure_model(self) -> None:
        """Loads the encoder and makes the metrics, once."""
        super().configure_model()
        if not hasattr(self, "val_perplexity"):
            self.val_perplexity = Perplexity()

    def on_validation_epoch_start(self) -> None:
        """Resets the metric: `Trainer.validate` leaves one that training cannot update."""
        self.val_perplexity.reset()

    def loss(self, batch: TokenBatch) -> Tensor:
        """The mean cross entropy of the labelled tokens, in nats.

        Args:
            batch: `input_ids` and `attention_mask`, each (B, L). In training and validation also
                `labels` and the other keys that `prepared` adds; missing labels are made here.
        """
        loss, accuracy = self.predict(self._with_labels(batch))
        if self._trainer is not None:
            self._log(loss.detach(), accuracy, row_count(batch))
        return loss

    def predict(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """The mean loss, and the share of the labels that were predicted correctly: two scalars.

        On several ranks the training loss is divided by the mean number of labels per rank, so
        that the averaged gradient is that of one process with the whole batch.
        """
        labels = batch["labels"]
        places = known_places(labels, batch.get("label_places"))
        count = send(torch.tensor(len(places), dtype=torch.float32), labels.device)
        loss, correct = next_token_loss(
            self.encoder.hidden_states(batch),
            labels,
            self.encoder.logits,
            target_count=(mean_over_ranks(count) if torch.is_grad_enabled() else count).clamp(
                min=1
            ),
            chunk_size=max(1, self.logits_at_once // self.encoder.config.vocab_size),
            places=places,
            trains_head=any(w.requires_grad for w in self.encoder.lm_head.parameters()),
        )
        return loss, correct / count.clamp(min=1)

    def _log(self, loss: Tensor, accuracy: Tensor, rows: int) -> None:
        self.log_mean("accuracy", accuracy, rows)
        if self.training:
            self.log("train/perplexity", mean_over_ranks(loss).exp(), batch_size=rows)
        else:
            self.val_perplexity.update(loss if rows else torch.zeros_like(loss), weight=rows)
            self.log("val/perplexity", self.val_perplexity, batch_size=rows)


def known_places(labels: Tensor, places: Tensor | None) -> Tensor:
    """The places of the labels, (M,): from the batch if it has them, else from the device.

    Args:
        labels: the token to predict, or -100, (B, L).
        places: the batch's `label_places`, (M,), if it has them.

    Raises:
        RuntimeError: if the places do not fit the labels; on a GPU, a failed assertion.
    """
    if places is None:
        return label_places(labels)
    labelled = is_label(labels).flatten()
    require(
        labelled.index_select(0, places).all() & (labelled.sum() == len(places)),
        "The batch's label_places do not fit its labels. If you change the labels, take "
        "label_places out of the batch.",
    )
    return places
