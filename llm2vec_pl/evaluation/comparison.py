"""A table of what each step of the method brought, on the data of the run."""

from __future__ import annotations

from lightning.pytorch import LightningDataModule, Trainer
from rich.console import Console
from rich.table import Table

from llm2vec_pl.evaluation.retrieval import evaluate_retrieval
from llm2vec_pl.objectives import Objective

_RETRIEVAL = ("ndcg@10", "recall@1")  # a table has no room for more


class Comparison:
    """Rows of validation metrics, one a step, printed side by side.

    Args:
        trainer: runs the validation.
        data: its validation split is measured; one with a `retrieval` task,
            such as `PythonDocs`, adds that.
    """

    def __init__(self, trainer: Trainer, data: LightningDataModule) -> None:
        self.trainer = trainer
        self.data = data
        self.rows: dict[str, dict[str, float]] = {}

    def measure(self, step: str, model: Objective) -> None:
        """Adds a row: the validation metrics of a model as it is now.

        Args:
            step: what the model is, the row's name.
            model: loaded if it is not yet.
        """
        metrics = next(iter(self.trainer.validate(model, self.data, verbose=False)), {})
        row = {name.removeprefix("val/"): value for name, value in metrics.items()}
        if hasattr(self.data, "retrieval"):
            row |= evaluate_retrieval(model.encoder, self.data.retrieval())
        self.rows[step] = {name: value for name, value in row.items() if _is_shown(name)}

    def print(self) -> None:
        """Prints the table, on the first rank."""
        if not self.trainer.is_global_zero:
            return
        columns = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        columns.sort(key=lambda name: name != "loss")  # the loss first
        table = Table("step", title="What each step brought, on held-out text")
        for name in columns:
            table.add_column(name, justify="right")
        for step, row in self.rows.items():
            table.add_row(step, *(f"{row[name]:.3f}" if name in row else "" for name in columns))
        Console().print(table)


def _is_shown(metric: str) -> bool:
    *_, name = metric.split("/")
    return "@" not in name or name in _RETRIEVAL
