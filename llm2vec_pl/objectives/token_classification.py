"""Token classification: a linear layer tells the tag of a word from its state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm2vec_pl.distributed import Repeated
from llm2vec_pl.encoder import Encoder, TokenBatch, tokenize_words, word_places
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives.base import Schedule
from llm2vec_pl.objectives.masking import IGNORED
from llm2vec_pl.objectives.tagger_folder import read_tagger, write_tagger
from llm2vec_pl.objectives.word_objective import TrainEncoder, WordObjective
from llm2vec_pl.objectives.word_scores import Tags, WordScores

Shift = Literal["auto", 0, 1]
SHIFTS = (0, 1)


class TokenClassification(WordObjective):
    """Dropout and a linear layer on the states of words (LLM2Vec, section 3.1).

    The defaults are the paper's: a frozen encoder, a learning rate of 5e-4, batches of 8 for about
    4,000 steps. The labels are those of the data.

    Args:
        encoder: gives the hidden states.
        shift: 0 takes a word's states at its own tokens; 1 takes them one position earlier, where
            MNTP predicts those tokens; auto trains a layer for both at once, on a frozen encoder,
            and chooses the one with the higher score (F1 of spans, accuracy of parts of speech) on
            the validation split. Both are reported.
        train_encoder: `none` freezes the encoder, in evaluation mode, so that only the linear layer
            is trained; `lora` trains a LoRA on it too, as `lora_rank` and the like say; `full` all
            of its weights.
        dropout: probability of dropping an element of a word's state in training.
        learning_rate: the highest learning rate, reached after warm-up.
        warmup_steps: optimizer steps of linear warm-up; below 1, a share of all steps.
        schedule: how the learning rate falls after warm-up.
        weight_decay: AdamW's weight decay.

    Raises:
        UserError: if an argument is out of range, or does not fit the encoder.
    """

    def __init__(
        self,
        encoder: Encoder,
        shift: Shift = "auto",
        train_encoder: TrainEncoder = "none",
        dropout: float = 0.1,
        learning_rate: float = 5e-4,
        warmup_steps: float = 0.0,
        schedule: Schedule = "linear",
        weight_decay: float = 0.0,
    ) -> None:
        if shift not in get_args(Shift):
            raise UserError(f"`shift` is auto, 0 or 1, but got {shift!r}.")
        if shift == "auto" and train_encoder != "none":
            raise UserError(
                '`shift="auto"` trains two layers on the same frozen encoder, but '
                f"`train_encoder={train_encoder!r}`. Set `shift=0` or `shift=1`."
            )
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"`dropout` is at least 0 and below 1, but got {dropout}.")
        self.shifts: tuple[int, ...] = SHIFTS if shift == "auto" else (shift,)
        first = self.shifts[0]
        options = (learning_rate, warmup_steps, schedule, weight_decay)
        super().__init__(encoder, first, train_encoder, *options)
        self.dropout = nn.Dropout(dropout)
        self.has_spans = False
        self.heads = nn.ModuleDict()
        self.scores = nn.ModuleDict()

    def setup(self, stage: str) -> None:
        """Takes the labels from the data, and makes a linear layer for them."""
        data: Any = getattr(self.trainer, "datamodule", None)
        self.has_spans = bool(getattr(data, "has_spans", False))
        super().setup(stage)

    def build(self, labels: Sequence[str]) -> None:
        """Makes a linear layer, in float32, for each shift."""
        if not labels:
            raise UserError(
                "TokenClassification needs data with `labels`, such as WordTask, passed to the "
                "Trainer as `datamodule`."
            )
        for shift in self.shifts:
            head = nn.Linear(self.encoder.embedding_size, len(labels), dtype=torch.float32)
            self.heads[str(shift)] = head.to(self.device)
            self.scores[str(shift)] = WordScores(self.has_spans).to(self.device)

    def logits(self, batch: TokenBatch) -> list[Tensor]:
        """The logits of all words that have a token, (W, C) for each shift."""
        states = self.shifted_states(batch, self.shifts)
        with torch.autocast(self.device.type, enabled=False):
            return [
                self.heads[str(shift)](self.dropout(each.float()))
                for shift, each in zip(self.shifts, states, strict=True)
            ]

    def loss(self, batch: TokenBatch) -> Tensor:
        """The cross entropy, the mean over words, and over both shifts.

        The two layers share nothing that is trained, and Adam does not notice half a gradient: each
        learns what it would learn alone.
        """
        labels = batch["labels"]
        losses = [
            F.cross_entropy(each, labels, ignore_index=IGNORED) for each in self.logits(batch)
        ]
        return torch.stack(losses).mean()

    def validation_step(self, batch: TokenBatch, batch_idx: int) -> None:
        """Counts what is right on held-out sentences, without dropout."""
        self._measure(batch)

    def test_step(self, batch: TokenBatch, batch_idx: int) -> None:
        """Counts what is right on test sentences, without dropout."""
        self._measure(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs `val/SCORE` of the better shift, which it chooses, and of each if there are two."""
        super().on_validation_epoch_end()
        found = self._computed()
        name = WordScores.score_of(self.has_spans)
        self.shift = max(self.shifts, key=lambda shift: float(found[shift][name]))
        self._log_scores("val", found)

    def on_test_epoch_end(self) -> None:
        """Logs `test/SCORE` of the shift chosen in validation, and of each if there are two."""
        self._log_scores("test", self._computed())

    @torch.no_grad()
    def tag(
        self, sentences: Sequence[Sequence[str]], batch_size: int = 32
    ) -> list[list[str | None]]:
        """The tags of sentences that are divided into words, in evaluation mode.

        Args:
            sentences: lists of words.
            batch_size: most sentences that go through the encoder at once.

        Returns:
            A tag for each word of each sentence; None for a word without a token, such as one
            beyond the encoder's `max_length`.
        """
        was_training = self.training
        self.eval()
        found: list[list[str | None]] = []
        for start in range(0, len(sentences), batch_size):
            some = sentences[start : start + batch_size]
            batch = self.prepared(tokenize_words(self.encoder.tokenize, some))
            places = word_places(batch["word_index"])
            on_device = {
                key: value.to(self.device) if isinstance(value, Tensor) else value
                for key, value in batch.items()
            }
            logits = self.logits(on_device)[self.shifts.index(self.shift)]
            found += self.tags_of(logits, places, [len(sentence) for sentence in some])
        if was_training:
            self.begin_training()
        return found

    def tags_of(
        self, logits: Tensor, places: Tensor, lengths: Sequence[int]
    ) -> list[list[str | None]]:
        """The likeliest tags, sentence by sentence.

        Args:
            logits: of all words that have a token, (W, C).
            places: the sentence of each and its number there, (W, 2).
            lengths: how many words each of B sentences has.
        """
        tags: list[list[str | None]] = [[None] * length for length in lengths]
        for (row, word), label in zip(places.tolist(), logits.argmax(-1).tolist(), strict=True):
            tags[row][word] = self.labels[label]
        return tags

    def save(self, folder: str | Path) -> Path:
        """Writes the layer of the chosen shift, the labels and what the encoder is.

        The weights of a frozen encoder are not copied, only named; those of a trained one lie in
        `encoder/` beside the folder, where a run leaves them.
        """
        return write_tagger(self, Path(folder))

    @classmethod
    def from_pretrained(cls, folder: str | Path, **overrides: Any) -> TokenClassification:
        """Opens what `save` wrote, ready to `tag`.

        Args:
            folder: such as `runs/word_task/seed_0/version_0/tagger`.
            overrides: arguments of `Encoder` that replace the recorded ones, such as `model_name`.
        """
        recorded, weights, encoder = read_tagger(Path(folder), overrides)
        tagger = cls(encoder, recorded["shift"])
        tagger.has_spans = recorded["has_spans"]
        tagger.build_for(recorded["labels"])
        tagger.heads[str(tagger.shift)].load_state_dict(weights)
        return tagger.eval()

    def _measure(self, batch: TokenBatch) -> None:
        logits = self.logits(batch)  # under FSDP2, each rank takes part
        if isinstance(batch, Repeated):
            return
        labels, tags = batch["labels"], batch["tags"]
        lengths = [len(each) for each in tags]
        for shift, each in zip(self.shifts, logits, strict=True):
            scores: Any = self.scores[str(shift)]
            losses = F.cross_entropy(each, labels, ignore_index=IGNORED, reduction="none")
            predicted: Sequence[Tags] = self.tags_of(each, batch["word_places"], lengths)
            scores.update(predicted, tags, losses[labels != IGNORED])

    def _computed(self) -> dict[int, dict[str, Tensor]]:
        found = {}
        for shift in self.shifts:
            scores: Any = self.scores[str(shift)]
            found[shift] = scores.compute()
            scores.reset()
        return found

    def _log_scores(self, split: str, found: dict[int, dict[str, Tensor]]) -> None:
        for name, value in found[self.shift].items():
            self.log(f"{split}/{name}", value, sync_dist=True)
        for shift in self.shifts if len(self.shifts) > 1 else ():
            for name, value in found[shift].items():
                self.log(f"{split}/shift_{shift}/{name}", value, sync_dist=True)
