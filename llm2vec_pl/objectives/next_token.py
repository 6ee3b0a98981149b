"""What MNTP and causal language modelling share: labels, the head, and how well it predicts."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from llm2vec_pl.distributed import mean_over_ranks
from llm2vec_pl.encoder import Notes, TokenBatch, send
from llm2vec_pl.objectives.base import Objective, row_count, token_batches
from llm2vec_pl.objectives.losses import label_places, next_token_loss

LABEL_PLACES: Notes[Tensor] = Notes()
"""Of labels (B, L): their `label_places`, whose number only the host can know without waiting."""


class Sent(NamedTuple):
    """A token batch as it came to the device, its `versions` then, and the same with its labels."""

    batch: TokenBatch
    versions: list[int]
    labelled: TokenBatch


def versions(batch: TokenBatch) -> list[int]:
    """How often each of its tensors has been changed in place."""
    return [value._version for value in batch.values() if isinstance(value, Tensor)]


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

    # What was sent to the device last.
    _sent: tuple[Sent, ...] = ()

    def labelled(self, batch: TokenBatch) -> TokenBatch:
        """The batch with `labels` (B, L): the token to predict, or -100.

        The trainer asks for them before a batch goes to the device, where their number could not
        be known without waiting: what is drawn here is drawn on the CPU.
        """
        raise NotImplementedError

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Moves a batch, and beside it the labels that its loss is going to ask for."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        before = torch.get_rng_state()
        if self.training:
            # Not the dropout's seed, which would draw the same numbers.
            step = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready
            torch.default_generator.manual_seed(self.seed_of(step, 1))
        parts = zip(token_batches(batch), token_batches(moved), strict=True)
        self._sent = tuple(
            Sent(dict(there), versions(there), self._labelled_on(here, there))
            for here, there in parts
            if "input_ids" in here
        )
        torch.set_rng_state(before)
        return moved

    def _labelled_on(self, here: TokenBatch, there: TokenBatch) -> TokenBatch:
        """The labels of a batch on the host, as a part of the same batch on the device."""
        labelled = here if "labels" in here else self.labelled(here)
        device = there["attention_mask"].device
        sent = {
            key: there[key] if value is here.get(key) else send(value, device)
            for key, value in labelled.items()
        }
        LABEL_PLACES.write(sent["labels"], send(label_places(labelled["labels"]), device))
        return sent

    def _with_labels(self, batch: TokenBatch) -> TokenBatch:
        """The batch with what was made for it, unless somebody has changed it on the way.

        To put another tensor in the batch is to change it, and so is to write into one: then
        tokens are labelled anew, on the device.
        """
        for sent in self._sent:
            same = all(batch.get(key) is sent.batch.get(key) for key in (*sent.batch, "labels"))
            if same and versions(sent.batch) == sent.versions:
                return {**batch, **sent.labelled}
        return batch if "labels" in batch else self.labelled(batch)

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
        loss, accuracy = self.predict(self._with_labels(batch))
        if self._trainer is not None:
            self._log(loss.detach(), accuracy, row_count(batch))
        return loss

    def predict(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """The mean loss, and the share of the labels that were predicted right: two scalars.

        Under several ranks the training loss is divided by the mean number of labels that a rank
        has, so that the averaged gradient is that of one process with the whole batch.
        """
        labels = batch["labels"]
        noted = LABEL_PLACES.read(labels)
        places = label_places(labels) if noted is None else noted
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
