"""What MNTP and causal language modelling share: labels, the head, and how well it predicts."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor
from torchmetrics import MeanMetric

from llm2vec_pl.losses import next_token_loss
from llm2vec_pl.masking import IGNORED
from llm2vec_pl.objectives.base import Objective
from llm2vec_pl.text import TokenBatch


class Perplexity(MeanMetric):
    """exp of the mean loss."""

    def compute(self) -> Tensor:
        """The perplexity so far."""
        return super().compute().exp()


class NextTokenObjective(Objective):
    """Predicts labelled tokens, each from the state before it; logs accuracy and perplexity too.

    A subclass says which tokens are labels, in `labelled`. The arguments are those of `Objective`.
    """

    logits_at_once = 2**23  # in a chunk: 32 MB in float32, whatever the vocabulary

    def labelled(self, batch: TokenBatch) -> TokenBatch:
        """The batch with `labels` (B, L): the token to predict, or -100."""
        raise NotImplementedError

    def configure_model(self) -> None:
        """Loads the encoder and makes the metrics, once."""
        super().configure_model()
        if not hasattr(self, "val_perplexity"):
            self.val_perplexity = Perplexity()

    def on_validation_epoch_start(self) -> None:
        """Starts the metric anew; `Trainer.validate` leaves one that training cannot update."""
        self.val_perplexity.reset()

    def loss(self, batch: TokenBatch) -> Tensor:
        """The mean cross entropy of the labelled tokens, in nats.

        Args:
            batch: `input_ids` and `attention_mask`, each (B, L); and `labels`, if they are given.
        """
        loss, accuracy = self.predict(batch if "labels" in batch else self.labelled(batch))
        if self._trainer is not None:
            self._log(loss.detach(), accuracy, len(batch["input_ids"]))
        return loss

    def predict(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """The mean loss, and the share of the labels that were predicted right: two scalars.

        Under several ranks the loss is divided by the mean number of labels that a rank has, so
        that the averaged gradient is that of one process with the whole batch.
        """
        labels = batch["labels"]
        count = (labels[:, 1:] != IGNORED).sum()
        loss, correct = next_token_loss(
            self.encoder.hidden_states(batch),
            labels,
            self.encoder.logits,
            target_count=_mean_over_ranks(count).clamp(min=1),
            chunk_size=max(1, self.logits_at_once // self.encoder.config.vocab_size),
        )
        return loss, correct / count.clamp(min=1)

    def _log(self, loss: Tensor, accuracy: Tensor, rows: int) -> None:
        if self.training:
            self.log("train/accuracy", accuracy, batch_size=rows, sync_dist=True)
            self.log("train/perplexity", _mean_over_ranks(loss).exp(), batch_size=rows)
        else:
            self.val_perplexity.update(loss, weight=rows)
            self.log("val/accuracy", accuracy, batch_size=rows, sync_dist=True)
            self.log("val/perplexity", self.val_perplexity, batch_size=rows)


def _mean_over_ranks(value: Tensor) -> Tensor:
    mean = value.float().clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
    return mean
