"""A table of what each step of the method brought, on the data of the run."""

from __future__ import annotations

from lightning.pytorch import LightningDataModule, Trainer

from llm2vec_pl.errors import user_errors
from llm2vec_pl.evaluation import evaluate_retrieval, print_table
from llm2vec_pl.objectives import Objective
from llm2vec_pl.training.lines import still_at


class Comparison:
    """Rows of validation metrics, one per step, printed as a table.

    Args:
        trainer: runs the validation.
        data: the data module whose validation split is used; if it has a `retrieval` task, such as
            `PythonDocs`, that is measured too.
    """

    def __init__(self, trainer: Trainer, data: LightningDataModule) -> None:
        self.trainer = trainer
        self.data = data
        self.rows: dict[str, dict[str, float]] = {}

    def measure(self, step: str, model: Objective) -> None:
        """Adds a row: the current validation metrics of a model.

        Args:
            step: the row's name.
            model: the model; loaded if it is not yet.
        """
        with user_errors():
            metrics = next(iter(self.trainer.validate(model, self.data, verbose=False)), {})
        row = {name.removeprefix("val/"): value for name, value in metrics.items()}
        if hasattr(self.data, "retrieval"):
            with still_at(f"measuring {step}"):
                row |= evaluate_retrieval(model.encoder, self.data.retrieval())
        self.rows[step] = dict(sorted(row.items(), key=lambda item: item[0] != "loss"))

    def print(self) -> None:
        """Prints the table, on the first rank."""
        if self.trainer.is_global_zero:
            print_table(self.rows, "What each step brought, on held-out text")
