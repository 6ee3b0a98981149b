"""The texts of a contrastive batch, and the token batches made from them."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.utils.data import Dataset, get_worker_info

from llm2vec_pl.data.examples.batches import TaskBatch
from llm2vec_pl.data.examples.examples import Examples
from llm2vec_pl.data.examples.instructions import Instruction
from llm2vec_pl.data.examples.token_counts import CHARACTERS_PER_TOKEN
from llm2vec_pl.data.files import Split, text_id
from llm2vec_pl.encoder import TextTokenizer, TokenBatch


@dataclass(frozen=True)
class Task:
    """Examples of one kind: a batch never mixes tasks.

    Args:
        name: the task's name, as the user knows it.
        train: examples to train on.
        validation: held-out examples.
        instruction: the text written before the examples' texts.
        weight: the share of the training examples that an epoch uses; above 1, some are repeated.
        notes: lines about the examples, such as rows left out.
    """

    name: str
    train: Examples
    validation: Examples
    instruction: Instruction = field(default_factory=Instruction)
    weight: float = 1.0
    notes: Sequence[str] = ()

    def examples(self, split: Split) -> Examples:
        """The examples of a split."""
        return self.train if split == "train" else self.validation


class TextBatch(NamedTuple):
    """A contrastive batch as text. There are B queries and positives, and N negatives."""

    task: str
    queries: list[str]
    positives: list[str]
    negatives: list[str]
    query_index: list[int]  # which query each negative belongs to
    query_instruction: str
    text_instruction: str  # of positives and negatives
    scores: list[float] | None = None  # of each query with its positive, in graded pairs


class TextBatches(Dataset[TextBatch]):
    """Reads the texts of the batches that a sampler names.

    Args:
        tasks: the tasks, in the sampler's order.
        split: the split to read.
        seed: seed of the instruction, which is drawn for each batch, the same on all ranks.
    """

    def __init__(self, tasks: Sequence[Task], split: Split, seed: int) -> None:
        self.names = [task.name for task in tasks]
        self.instructions = [task.instruction for task in tasks]
        self.examples = [task.examples(split) for task in tasks]
        self.seed = seed

    def __len__(self) -> int:
        return sum(map(len, self.examples))

    def __getitem__(self, batch: TaskBatch) -> TextBatch:
        examples = [self.examples[batch.task].example(row, batch.epoch) for row in batch.rows]
        instruction = self.instructions[batch.task]
        draw = random.Random(f"{self.seed} {batch.epoch} {batch.number}")
        text = draw.choice(instruction.texts)
        scores = [example.score for example in examples if example.score is not None]
        return TextBatch(
            task=self.names[batch.task],
            queries=[example.query for example in examples],
            positives=[example.positive for example in examples],
            negatives=[negative for example in examples for negative in example.negatives],
            query_index=[i for i, example in enumerate(examples) for _ in example.negatives],
            query_instruction=text,
            text_instruction=text if instruction.symmetric else "",
            scores=scores or None,
        )


class Tokenised:
    """Turns the texts of a batch into token batches, in the loader's workers.

    Args:
        text: the encoder's tokenizer.
        keep_texts: whether each token batch also holds its `texts`, a list of strings.
    """

    def __init__(self, text: TextTokenizer, keep_texts: bool = False) -> None:
        self.tokenize = text
        self.keep_texts = keep_texts

    def __call__(self, batch: TextBatch) -> dict[str, TokenBatch]:
        """A contrastive batch: `query`, `positive` and, if there are negatives, `negative`.

        Each is a token batch with `text_id`, equal for equal texts; `negative` has `query_index`,
        and `positive` has `score` if the pairs are graded.
        """
        if get_worker_info():  # the workers are the parallelism
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        tokens = {
            "query": self.tokens(batch.queries, batch.query_instruction),
            "positive": self.tokens(batch.positives, batch.text_instruction),
        }
        if batch.scores is not None:
            tokens["positive"]["score"] = torch.tensor(batch.scores, dtype=torch.float32)  # (B,)
        if batch.negatives:
            tokens["negative"] = self.tokens(batch.negatives, batch.text_instruction)
            tokens["negative"]["query_index"] = torch.tensor(batch.query_index)  # (N,)
        return tokens

    def tokens(self, texts: list[str], instruction: str) -> TokenBatch:
        """The tokens of texts, with `text_id`, (rows,), and perhaps `texts`."""
        longest = CHARACTERS_PER_TOKEN * self.tokenize.max_length
        tokens = self.tokenize([text[:longest] for text in texts], instruction)
        lengths = tokens["attention_mask"].sum(dim=1).tolist()
        # If a cut text still fills the row, its rest would have been cut off anyway.
        cut = (len(text) > longest for text in texts)
        if any(c and n < self.tokenize.max_length for c, n in zip(cut, lengths, strict=True)):
            tokens = self.tokenize(texts, instruction)
        tokens["text_id"] = torch.tensor([text_id(text) for text in texts])  # (rows,)
        if self.keep_texts:
            tokens["texts"] = texts
        return tokens
