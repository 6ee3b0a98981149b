"""What is probed: sentences with a tag for each word, tokenised for one model or another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast, get_args

import torch

from llm2vec_pl.data import WordTask
from llm2vec_pl.data.files import looks_local
from llm2vec_pl.data.words import TaggedSentence, TaggedSentences, WordSplit, WordTaskName
from llm2vec_pl.decoder import file_contents
from llm2vec_pl.encoder import TokenBatch, word_tokens
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.word_probe.frozen import FrozenModel
from llm2vec_pl.evaluation.word_probe.states import KeptStates, kept_states
from llm2vec_pl.objectives import WordScores

TASKS = get_args(WordTaskName)


@dataclass(frozen=True)
class ProbeTask:
    """Where the sentences are, and which of their tags are to be told.

    Args:
        path: as for `WordTask`.
        task: pos, chunk or ner.
        column: where the tags are, if it is not the usual place.
    """

    path: str
    task: WordTaskName
    column: str | None = None

    @classmethod
    def parse(cls, text: str) -> ProbeTask:
        """`PATH:TASK` or `PATH:TASK:COLUMN`, such as `ud_english_ewt:pos:xpos`.

        Raises:
            UserError: if it has another form.
        """
        parts = text.split(":")
        for place in (-1, -2):
            path = ":".join(parts[:place])
            if path and parts[place] in TASKS:
                return cls(
                    path, cast(WordTaskName, parts[place]), ":".join(parts[place:][1:]) or None
                )
        raise UserError(
            f"--data expects PATH:TASK, with one of the tasks {', '.join(TASKS)}, such as "
            f"ud_english_ewt:pos, but got {text!r}."
        )

    @property
    def name(self) -> str:
        """The folder's name and the task."""
        column = f" {self.column}" if self.column else ""
        return f"{Path(self.path).expanduser().resolve().name} {self.task}{column}"

    @property
    def score(self) -> str:
        """The score that decides: `f1` of spans, `accuracy` of parts of speech."""
        return WordScores.score_of(self.task != "pos")

    @cached_property
    def key(self) -> dict[str, Any]:
        """What a result depends on: the files of a folder, the name of a data set of the hub."""
        path = Path(self.path).expanduser()
        files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
        names = [str(file) for file in files if file.is_file()]
        contents = sorted(file_contents(names).values()) if looks_local(self.path) else self.path
        return {"task": self.task, "column": self.column, "data": contents}

    def read(self, model: FrozenModel) -> WordTask:
        """The sentences, their labels and how they are divided into splits.

        Args:
            model: any of those that are probed.

        Raises:
            UserError: with file and line, if the data cannot be read.
        """
        data = WordTask(self.path, self.task, self.column).attach(model.tokenize)
        data.setup()
        return data


class ProbedSplits:
    """The sentences of a task, tokenised for a model, with its hidden states.

    Args:
        data: the task.
        model: gives the states.
        layers: those that are probed.
        label: of the model, in what is printed.
    """

    def __init__(
        self, data: WordTask, model: FrozenModel, layers: Sequence[int], label: str
    ) -> None:
        self.labels, self.has_spans, self.shifts = data.labels, data.has_spans, model.shifts
        number = {tag: i for i, tag in enumerate(data.labels)}
        self.sentences: dict[WordSplit, TaggedSentences] = {}
        self._states: dict[WordSplit, dict[int, KeptStates]] = {}
        for split, sentences in data.sentences.items():
            tokens = word_tokens(model.tokenize, [each.words for each in sentences])
            tagged = TaggedSentences(tokens, sentences, number, split == "train")
            for line in tagged.faults(split):
                print(f"{label}: {line}")
            rows = [tagged[i].tokens for i in range(len(tagged))]
            self.sentences[split] = tagged
            self._states[split] = kept_states(model, rows, layers, f"{label}, {split}")

    def size(self, layer: int) -> int:
        """D, the size of the states after a layer."""
        return int(self._states["train"][layer].states.shape[-1])

    def batch(self, split: WordSplit, layer: int, sentences: Sequence[int]) -> TokenBatch:
        """Some sentences as a batch.

        Returns:
            `word_states`, (shifts, W, D); `labels`, (W,), `word_places`, (W, 2), and `tags`, as in
            the batches of `WordTask`.
        """
        rows = [self.sentences[split][i] for i in sentences]
        labels = [label for row in rows for label in row.labels]
        states = self._states[split][layer].of(sentences)
        return {
            "word_states": states,
            "labels": torch.tensor(labels, dtype=torch.long),
            **_told(rows),
        }


def _told(rows: Sequence[TaggedSentence]) -> dict[str, Any]:
    """What turns the classes of a batch's words into tags of sentences."""
    places = [(i, w) for i, row in enumerate(rows) for w in sorted(set(row.tokens.words)) if w >= 0]
    return {"word_places": torch.tensor(places).view(-1, 2), "tags": [row.tags for row in rows]}
