"""`metrics.csv`: one row per step, written at once; a resumed run continues it."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from typing_extensions import override

from llm2vec_pl.files import unfinished

Row = dict[str, Any]


class MetricsFile(CSVLogger):
    """`metrics.csv`, written at each entry; a resumed run continues it from where it was saved.

    Everything logged for one step, its learning rate, losses and validation, is one row. A second
    validation of a step, such as the one before training, has its own row.

    Args:
        root: the folder of the recipe's runs.
        version: number or name of the run.
        first_step: existing entries from this step on are removed: they come after the checkpoint,
            and will be logged again.
    """

    def __init__(self, root: str, version: int | str, first_step: int = 0) -> None:
        super().__init__(root, name="", version=version, flush_logs_every_n_steps=1)
        self._first_step = first_step

    @override
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if step is None or step >= self._first_step:  # earlier steps are written already
            super().log_metrics(metrics, step)

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            writer = self._experiment = _Appending(self.log_dir)
            writer.keep_before(self._first_step)
        return self._experiment  # type: ignore[return-value]


class _Appending(ExperimentWriter):
    """Continues an existing file, which Lightning's own writer would delete, and its last row.

    Args:
        log_dir: the folder of the file.
    """

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._last: list[Row] = []  # the row that the next entry may belong to
        self._last_place = 0  # where it begins in the file, in bytes

    @override
    def _check_log_dir_exists(self) -> None:
        pass

    @override
    def save(self) -> None:
        """Writes what was logged; rewrites the last row if there is more for its step."""
        if not self.metrics:
            return
        file = Path(self.metrics_file_path)
        rows = merged([*self._last, *self.metrics])
        if self._last:
            os.truncate(file, self._last_place)
        if self._record_new_keys() and file.is_file():
            self._rewrite_with_new_header(self.metrics_keys)
        is_new = not file.is_file()
        with file.open("a", newline="") as open_file:
            writer = csv.DictWriter(open_file, self.metrics_keys)
            if is_new:
                writer.writeheader()
            writer.writerows(rows[:-1])
            self._last_place = open_file.tell()
            writer.writerow(rows[-1])
        self._last, self.metrics = rows[-1:], []

    def keep_before(self, step: int) -> None:
        """Removes the rows of this step and later ones, in one operation."""
        file = Path(self.metrics_file_path)
        if not file.is_file():
            return
        with file.open(newline="") as old:
            reader = csv.DictReader(old)
            self.metrics_keys = list(reader.fieldnames or [])
            kept = [row for row in reader if (row.get("step") or "").isdigit()]
        with unfinished(file) as path, path.open("w", newline="") as new:
            writer = csv.DictWriter(new, self.metrics_keys)
            writer.writeheader()
            writer.writerows(row for row in kept if int(row["step"]) < step)


def merged(rows: Iterable[Row]) -> list[Row]:
    """The rows, with consecutive ones of one step merged; of two values, the later counts.

    Two validations of a step are not merged.

    >>> merged([{"step": 0, "lr": 0.1}, {"step": 0, "loss": 2.0}, {"step": 1, "lr": 0.2}])
    [{'step': 0, 'lr': 0.1, 'loss': 2.0}, {'step': 1, 'lr': 0.2}]
    """
    steps: list[Row] = []
    for row in rows:
        if steps and steps[-1]["step"] == row["step"] and not _validations(steps[-1], row):
            steps[-1] = {**steps[-1], **row}
        else:
            steps.append(row)
    return steps


def _validations(row: Row, other: Row) -> set[str]:
    """The validation metrics that both rows have."""
    both = row.keys() & other.keys()
    return {name for name in both if name.startswith("val/") and row[name] not in ("", None)}
