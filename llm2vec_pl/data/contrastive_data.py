"""What the data modules for contrastive training share: tasks, batches, the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_info

from llm2vec_pl.data.encoder_data import EncoderData
from llm2vec_pl.data.examples import (
    Task,
    TaskBatchSampler,
    TaskRows,
    TextBatch,
    TextBatches,
    TokenBatchSampler,
    TokenCounter,
    Tokenised,
)
from llm2vec_pl.data.files import SPLITS, Split
from llm2vec_pl.data.resuming import FitProgress, ResumableLoader
from llm2vec_pl.encoder import TextTokenizer
from llm2vec_pl.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class ContrastiveData(EncoderData):
    """Batches of queries, positives and negatives; each batch has one task, across all ranks.

    A subclass defines the tasks (`read_tasks`).

    Args:
        batch_size: examples per batch and device.
        num_workers: processes that read and tokenise batches.
        seed: seed of the order, and of the draw from rows with several texts; both are functions
            of seed and epoch.
        max_tokens: tokens per batch and device; a batch then has at most `batch_size` examples.
            Padding is not counted. None: no limit.
    """

    def __init__(
        self, batch_size: int, num_workers: int, seed: int, max_tokens: int | None = None
    ) -> None:
        super().__init__()
        for name, value, least in [
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
            ("max_tokens", max_tokens, 1),
        ]:
            if value is not None and value < least:
                raise UserError(f"`{name}` expects at least {least}, but got {value}.")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.max_tokens = max_tokens
        self.tasks: list[Task] = []
        self._rows: dict[Split, list[TaskRows]] = {}

    def read_tasks(self) -> list[Task]:
        """The tasks with their examples, from a cache if reading them takes long."""
        raise NotImplementedError(f"{type(self).__name__} does not define read_tasks().")

    @property
    def prompts(self) -> dict[str, str]:
        """The tasks' instructions by name: the prompts of the encoder that is trained with them.

        What all tasks write before their queries is that of a `query` too, and what all write
        before all their texts is that of a `document`. Of several for one task, the first counts.
        """
        instructions = {task.name: task.instruction for task in self.tasks}
        texts = {name: instruction.texts[0] for name, instruction in instructions.items()}
        if len(set(texts.values())) == 1:
            (text,) = set(texts.values())
            texts["query"] = text
            if all(instruction.symmetric for instruction in instructions.values()):
                texts["document"] = text
        return {name: text for name, text in texts.items() if text}

    @property
    def tokenize(self) -> TextTokenizer:
        """The tokenizer of the module being trained, or the one attached."""
        tokenize: TextTokenizer = self.attached_tokenizer
        return tokenize

    def prepare_data(self) -> None:
        """Writes what `read_tasks` caches, and the counts of tokens; once on each node."""
        self._tasks_and_lengths()

    def setup(self, stage: str | None = None) -> None:
        """Opens the tasks and prints what is in them."""
        self.tasks, self._rows = self._tasks_and_lengths()
        if not len(self.batches("train")):
            raise UserError(
                f"{type(self).__name__} has no batch to train on: it needs at least "
                f"{max(2, self.world_size)} examples of one task. Give more data."
            )
        if stage in (None, "fit"):
            self._announce()

    def train_dataloader(self) -> ResumableLoader:
        """Batches of the training examples, in a different order each epoch."""
        return self._loader("train")

    def val_dataloader(self) -> ResumableLoader | list[ResumableLoader]:
        """Batches of the held-out examples, always in the same order."""
        return self._loader("validation") if len(self.batches("validation")) else []

    def text_batches(self, split: Split = "train", epoch: int = 0) -> Iterator[TextBatch]:
        """The batches of this rank as text, before they are tokenised."""
        sampler = self.batches(split)
        sampler.set_epoch(epoch)
        texts = TextBatches(self.tasks, split, self.seed)
        return (texts[batch] for batch in sampler)

    def batches(self, split: Split) -> TaskBatchSampler:
        """Names the batches of this rank."""
        options: dict[str, Any] = {
            "rank": self.rank,
            "world_size": self.world_size,
            "seed": self.seed,
            "shuffle": split == "train",
        }
        texts, rows = TextBatches(self.tasks, split, self.seed), self._rows[split]
        if self.max_tokens is None:
            return TaskBatchSampler(texts, rows, self.batch_size, **options)
        return TokenBatchSampler(texts, rows, self.batch_size, self.max_tokens, **options)

    def _tasks_and_lengths(self) -> tuple[list[Task], dict[Split, list[TaskRows]]]:
        """The tasks that are used, and the lengths of their examples."""
        tasks = [task for task in self.read_tasks() if task.weight > 0]
        rows: dict[Split, list[TaskRows]] = {
            split: [TaskRows(t.name, self._lengths(t, split), t.weight) for t in tasks]
            for split in SPLITS
        }
        return tasks, rows

    def _lengths(self, task: Task, split: Split) -> NDArray[np.int64]:
        examples = task.examples(split)
        if self.max_tokens is None:
            return examples.lengths
        name = f"{type(self).__name__}: {task.name}"
        return examples.tokens(TokenCounter(self.tokenize, task.instruction, name))

    def _loader(self, split: Split) -> ResumableLoader:
        # It would replace our sampler.
        if self.trainer and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            raise UserError(
                "`Trainer(overfit_batches)` cannot be used with contrastive data. "
                "Set `Trainer(limit_train_batches=N)` instead."
            )
        sampler = self.batches(split)
        progress = FitProgress.of(self.trainer) if split == "train" else None
        module = self.trainer.lightning_module if self.trainer else None
        tokenised = Tokenised(self.tokenize, keep_texts=getattr(module, "reads_texts", False))
        return ResumableLoader(sampler.dataset, sampler, self.num_workers, tokenised, progress)

    def _announce(self) -> None:
        name = type(self).__name__
        for task in self.tasks:
            weight = f", weight {task.weight:g}" if task.weight != 1 else ""
            rank_zero_info(
                f"{name}: {task.name}: {len(task.train):,} train + {len(task.validation):,} "
                f"validation examples{weight}"
            )
            for note in task.notes:
                rank_zero_info(f"{name}: {task.name}: {note}")
        for split in SPLITS:
            sampler = self.batches(split)
            left = ", ".join(f"{count:,} of {task}" for task, count in sampler.left_over.items())
            rank_zero_info(
                f"{name}: {len(sampler):,} {split} batches of {self._size_of(sampler)}"
                + (f"; rows left over: {left}" if left else "")
            )

    def _size_of(self, sampler: TaskBatchSampler) -> str:
        size = f"{self.batch_size:,} examples"
        devices = f" on each of {self.world_size:,} devices" if self.world_size > 1 else ""
        if not isinstance(sampler, TokenBatchSampler):
            return size + devices
        mean = sampler.examples_per_batch
        average = f"{mean:,.0f}" if mean >= 10 else f"{mean:.1f}"
        return f"at most {size} and {self.max_tokens:,} tokens{devices}, {average} on average"
