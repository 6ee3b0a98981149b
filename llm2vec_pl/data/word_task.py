"""Sentences with a tag for each word: parts of speech, chunks, named entities."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import get_args

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from llm2vec_pl.data.blocks import RowBatchSampler, RowsOf
from llm2vec_pl.data.encoder_data import EncoderData
from llm2vec_pl.data.resuming import FitProgress, ResumableLoader
from llm2vec_pl.data.words import (
    Layout,
    Sentence,
    TaggedSentences,
    WordSplit,
    WordTaskName,
    label_order,
    read_splits,
    word_batch,
)
from llm2vec_pl.encoder import (
    pad_token,
    word_tokens,
)
from llm2vec_pl.errors import UserError

_MEASURED_AT_ONCE = 32  # sentences; without gradients, more fit than in training


class WordTask(EncoderData):
    """Sentences whose words have a tag each, to train and measure a tagger.

    A folder holds files whose names say train, valid (validation, dev, testa) or test (testb), as
    columns of CoNLL-2000 and CoNLL-2003, CoNLL-U, JSON lines or Parquet. The labels are those of
    the training split; spans are read in IOB1, IOB2 or IOBES, and are IOB2 here. Words without a
    token, such as those beyond the encoder's `max_length`, are not trained on and count as wrong.

    Args:
        path: a folder, a file (a part of which is held out for validation), or the name of a data
            set on the hub; required.
        task: pos (parts of speech), chunk, or ner (named entities); the latter two are spans.
        column: where the tags are, if it is not the usual place: the column's name, or in CoNLL's
            columns its number, from 1.
        word_column: where the words are, if it is not the usual place.
        names: the tags in the order of their numbers, if the rows hold numbers and nothing in the
            file names them.
        subset: subset ("configuration") of the hub's data set.
        batch_size: sentences per batch and device.
        num_workers: processes that load batches.
        seed: seed of the order.

    Raises:
        UserError: if an argument is missing or out of range.
    """

    def __init__(
        self,
        path: str | None = None,
        task: WordTaskName = "pos",
        column: str | int | None = None,
        word_column: str | int | None = None,
        names: list[str] | None = None,
        subset: str | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not path:
            raise UserError(
                "`path` is missing: name a folder with train, valid and test files of words and "
                "tags, or a data set on the hub."
            )
        if task not in get_args(WordTaskName):
            raise UserError(
                f"`task` is one of {', '.join(get_args(WordTaskName))}, but got {task!r}."
            )
        for name, value, least in [("batch_size", batch_size, 1), ("num_workers", num_workers, 0)]:
            if value < least:
                raise UserError(f"`{name}` expects at least {least}, but got {value}.")
        self.path = path
        self.task = task
        self.layout = Layout(task, column, word_column, tuple(names or ()))
        self.subset = subset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.sentences: dict[WordSplit, list[Sentence]] = {}
        self.labels: list[str] = []
        self._rows: dict[WordSplit, TaggedSentences] = {}

    @property
    def has_spans(self) -> bool:
        """Whether the tags mark spans, in IOB2."""
        return self.task != "pos"

    def setup(self, stage: str | None = None) -> None:
        """Reads and tokenises all splits, once, and prints what is in them."""
        if self._rows:
            return
        self.sentences, notes = read_splits(self.path, self.layout, self.subset)
        found = {tag for sentence in self.sentences["train"] for tag in sentence.tags}
        self.labels = sorted(found, key=label_order)
        if len(self.labels) < 2:
            raise UserError(
                f"`path={self.path!r}` has only the tag {self.labels[0]!r} in its training split; "
                "expected at least two. Set `column`."
            )
        number = {label: i for i, label in enumerate(self.labels)}
        for split, sentences in self.sentences.items():
            tokens = word_tokens(self.attached_tokenizer, [s.words for s in sentences])
            self._rows[split] = TaggedSentences(tokens, sentences, number, split == "train")
        self._announce(notes)

    def train_dataloader(self) -> ResumableLoader:
        """Batches of the training sentences, in a different order each epoch."""
        return self._loader("train")

    def val_dataloader(self) -> ResumableLoader:
        """Batches of the validation sentences, in their order."""
        return self._loader("validation")

    def test_dataloader(self) -> ResumableLoader | list[ResumableLoader]:
        """Batches of the test sentences, in their order; none without a test split."""
        return self._loader("test") if "test" in self._rows else []

    def _loader(self, split: WordSplit) -> ResumableLoader:
        trains = split == "train"
        rows = self._rows[split]
        size = self.batch_size if trains else max(self.batch_size, _MEASURED_AT_ONCE)
        sampler = RowBatchSampler(rows, size, self.rank, self.world_size, self.seed, shuffle=trains)
        collate = partial(word_batch, fill=pad_token(self.attached_tokenizer))
        progress = FitProgress.of(self.trainer) if trains else None
        return ResumableLoader(RowsOf(rows), sampler, self.num_workers, collate, progress)

    def _announce(self, notes: Sequence[str]) -> None:
        for split, sentences in self.sentences.items():
            words = sum(len(sentence.words) for sentence in sentences)
            rank_zero_info(f"WordTask: {split}: {len(sentences):,} sentences, {words:,} words")
        shown = ", ".join(self.labels[:12]) + (", …" if len(self.labels) > 12 else "")
        rank_zero_info(f"WordTask: {self.task}: {len(self.labels)} labels: {shown}")
        for note in notes:
            rank_zero_info(f"WordTask: {note}")
        for split, rows in self._rows.items():
            for line in rows.faults(split):
                rank_zero_warn(f"WordTask: {line}")
