"""Classification: can a linear model tell the labels from the embeddings, after a few examples?"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from llm2vec_pl.data.files import (
    RECORD_READERS,
    Row,
    extension,
    load_split,
    looks_local,
    problem_of,
    read_records,
    spread,
)
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.embedding import embedder

LABELLED = ("text", "label")
SEED = 42  # mteb's


@dataclass(frozen=True)
class ClassificationTask:
    """Texts with one label each, to learn from and to test on.

    Args:
        name: the task's name in tables and logs.
        train_texts: the texts from which examples are drawn.
        train_labels: the label of each.
        test_texts: the texts to classify.
        test_labels: the label of each.

    Raises:
        UserError: if there are fewer than two labels to learn, or no text to classify.
    """

    name: str
    train_texts: list[str]
    train_labels: list[str]
    test_texts: list[str]
    test_labels: list[str]

    def __post_init__(self) -> None:
        labels = len(set(self.train_labels))
        if labels < 2 or not self.test_texts:
            raise UserError(
                f"The classification task {self.name} needs training texts of at least two labels "
                f"and a text to classify, but has {len(self.train_texts):,} training texts of "
                f"{labels} labels and {len(self.test_texts):,} texts to classify. Give more data."
            )

    @classmethod
    def read(
        cls,
        path: str | Path,
        split: str = "test",
        subset: str | None = None,
        columns: Sequence[str] = LABELLED,
        name: str | None = None,
    ) -> ClassificationTask:
        """Reads a folder, or a data set of the hub such as `mteb/banking77`.

        Args:
            path: a folder with `train` and SPLIT as jsonl, csv, tsv or parquet files; or the name
                of a data set on the hub that has these splits.
            split: the split to classify.
            subset: subset ("configuration") of the hub's data set.
            columns: names of the columns: text, label. A label is a text or a whole number.
            name: the task's name; by default the folder's, or the last part of the hub's name.

        Raises:
            UserError: with file and line, for anything that is not a text and a label; or if
                scikit-learn, which the evaluation needs, is not installed.
        """
        _logistic_regression()
        sides: list[list[str]] = []
        for part in ("train", split):
            if looks_local(path):
                rows = read_records(_file(Path(path).expanduser(), part), columns)
            else:
                rows = _hub_rows(str(path), part, subset, columns)
            pairs = [_pair(row, columns) for row in rows]
            sides += [[text for text, _ in pairs], [label for _, label in pairs]]
        if name is None:
            name = Path(path).expanduser().resolve().name
        return cls(name, *sides)

    def limited(self, limit: int | None) -> ClassificationTask:
        """At most `limit` of the texts to classify, evenly spread over the task."""
        rows = spread(len(self.test_texts), limit)
        texts, labels = ([side[i] for i in rows] for side in (self.test_texts, self.test_labels))
        return replace(self, test_texts=texts, test_labels=labels)


def evaluate_classification(
    encoder: Encoder,
    task: ClassificationTask,
    batch_size: int = 64,
    instruction: str = "",
    samples_per_label: int = 8,
    experiments: int = 10,
    on_all_ranks: bool = False,
) -> float:
    """The accuracy of logistic regressions on frozen embeddings, as MTEB 2.26 measures it.

    Each experiment draws its examples from the training texts, as MTEB draws them; fits
    scikit-learn's regression (at most 100 iterations) to their embeddings, as they are; and
    classifies all texts of the test. A text whose label has no example counts as wrong.

    Args:
        encoder: embeds the texts.
        task: the texts and their labels.
        batch_size: number of texts that go through the decoder at once.
        instruction: written directly before each text, and not pooled.
        samples_per_label: number of examples of each label, or all that there are of it.
        experiments: number of regressions, each on other examples.
        on_all_ranks: divide the embedding among all ranks, each of which must call this.

    Returns:
        The mean accuracy of the experiments, in [0, 1]; NaN if an embedding is not finite.

    Raises:
        UserError: if scikit-learn is not installed.
        ValueError: for fewer than one sample or experiment.
    """
    if samples_per_label < 1 or experiments < 1:
        raise ValueError(
            "`samples_per_label` and `experiments` expect at least 1, but got "
            f"{samples_per_label} and {experiments}."
        )
    _logistic_regression()
    drawn = draws(task.train_labels, samples_per_label, experiments)
    learned = {task.train_texts[i] for rows in drawn for i in rows}
    texts = list(dict.fromkeys([*sorted(learned), *task.test_texts]))  # each text once
    embeddings = embedder(encoder, batch_size, on_all_ranks)(texts, instruction)  # (N, D)
    if not embeddings.isfinite().all():
        return math.nan
    rows = {text: i for i, text in enumerate(texts)}
    test = embeddings[[rows[text] for text in task.test_texts]]
    correct = 0
    for chosen in drawn:
        examples = embeddings[[rows[task.train_texts[i]] for i in chosen]]
        found = _classified(examples, [task.train_labels[i] for i in chosen], test)
        correct += sum(a == b for a, b in zip(found, task.test_labels, strict=True))
    return correct / (experiments * len(task.test_labels))


def draws(labels: Sequence[str], samples_per_label: int, experiments: int) -> list[list[int]]:
    """The rows that each experiment learns from, drawn as MTEB 2.26 draws them.

    The rows are shuffled, and the first ones of each label are taken. Each experiment shuffles
    what the one before has left, with the same random numbers.

    Args:
        labels: the label of each row.
        samples_per_label: number of rows to draw of each label.
        experiments: number of draws.
    """
    import numpy as np

    order = list(range(len(labels)))
    drawn = []
    for _ in range(experiments):
        np.random.RandomState(SEED).shuffle(order)
        taken: Counter[str] = Counter()
        chosen = []
        for i in order:
            if taken[labels[i]] < samples_per_label:
                taken[labels[i]] += 1
                chosen.append(i)
        drawn.append(chosen)
    return drawn


def _classified(examples: Tensor, labels: list[str], test: Tensor) -> list[str]:
    """The labels that a regression on the examples, (S, D), gives to (N, D) embeddings."""
    regression = _logistic_regression()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 100 iterations often end before it has converged
        regression.fit(examples.numpy(), labels)
    return [str(label) for label in regression.predict(test.numpy())]


def _logistic_regression() -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise UserError(
            "Evaluation by classification needs scikit-learn. Run "
            '`pip install "llm2vec_pl[classification]"`, or `pip install scikit-learn`.'
        ) from error
    return LogisticRegression(max_iter=100, random_state=SEED)


def _file(folder: Path, split: str) -> Path:
    """The file of a split in a folder."""
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise UserError(
            f"{folder} {problem} (looked for {folder.absolute()}). A classification task is a "
            "folder with a file for each split, such as train.jsonl and test.jsonl."
        )
    known = [path for path in sorted(folder.iterdir()) if extension(path) in RECORD_READERS]
    found = [path for path in known if path.name.split(".")[0] == split]
    if len(found) != 1:
        there = ", ".join(path.name for path in found or known) or "none"
        raise UserError(
            f"{folder}: expected one file {split} with an extension of {', '.join(RECORD_READERS)}"
            f", but found {len(found)} (files there: {there})."
        )
    return found[0]


def _pair(row: Row, columns: Sequence[str]) -> tuple[str, str]:
    if not isinstance(row.value, dict):
        raise UserError(f"{row.place}: expected a text with a label, but got {row.value}.")
    text, label = (row.value.get(column) for column in columns)
    if problem := problem_of(text):
        raise UserError(f"{row.place}: expected a text in {columns[0]!r}, but got {problem}.")
    whole = isinstance(label, int) and not isinstance(label, bool)
    if not whole and problem_of(label):
        raise UserError(
            f"{row.place}: expected a text or a whole number in {columns[1]!r}, but got {label!r}."
        )
    return str(text), str(label)


def _hub_rows(path: str, split: str, subset: str | None, columns: Sequence[str]) -> Iterator[Row]:
    for number, row in enumerate(load_split(path, subset, split, columns), 1):
        yield Row(row, f"{path} ({split})", number, "row")
