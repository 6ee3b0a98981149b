"""STS and retrieval at each validation, on all ranks: to watch, to stop early, to keep the best."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from llm2vec_pl.data import RetrievalTask
from llm2vec_pl.data.files import looks_local
from llm2vec_pl.encoder import Encoder, MultiVectorEncoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.retrieval import evaluate_retrieval
from llm2vec_pl.evaluation.sts import COLUMNS, STSTask, evaluate_sts


class Evaluation(Callback):
    """Measures the module's encoder when a validation ends, and logs the metrics.

    A subclass defines what is measured. Metrics are logged as `val/...`, so that `ModelCheckpoint`
    and `EarlyStopping` can monitor them, with `mode="max"`.

    Args:
        name: name of the metrics, after `val/`.
        batch_size: number of texts that go through the decoder at once on each device.
    """

    def __init__(self, name: str, batch_size: int) -> None:
        _at_least(f"{type(self).__name__}.batch_size", batch_size, 1)
        self.name = name
        self.batch_size = batch_size

    def measure(self, encoder: Any) -> dict[str, float]:
        """The metrics by full name; called on all ranks."""
        raise NotImplementedError

    def subject(self, pl_module: LightningModule) -> Any:
        """What is measured: the module's encoder."""
        return pl_module.encoder

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises errors that would otherwise appear only at the first validation."""
        if not isinstance(getattr(pl_module, "encoder", None), Encoder):
            raise UserError(
                f"{type(self).__name__} evaluates the encoder of an objective, but "
                f"{type(pl_module).__name__} has no Encoder as its attribute `encoder`."
            )
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        names = [callback.name for callback in callbacks if isinstance(callback, Evaluation)]
        if names.count(self.name) > 1:
            raise UserError(
                f"Two evaluations are called {self.name!r}. Give one of them another "
                f"`{type(self).__name__}.name`."
            )
        if stage == "fit" and not trainer.enable_validation:
            raise UserError(
                f"{type(self).__name__} runs with the validation, but there is none: the data "
                "module has no val_dataloader, or `Trainer(limit_val_batches=0)` is set. Change "
                "that, or leave out the evaluation."
            )

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises an error for an empty validation split, which would never be evaluated."""
        if not any(trainer.num_val_batches):
            raise UserError(
                f"{type(self).__name__} runs with the validation, but the validation split is "
                "empty. Give more data."
            )

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures and logs, except in the sanity check."""
        if trainer.sanity_checking:
            return
        for name, value in self.measure(self.subject(pl_module)).items():
            # The ranks hold the same value; their mean keeps Lightning from warning.
            pl_module.log(name, value, sync_dist=True)


class STSEvaluation(Evaluation):
    """Spearman's correlation on pairs of sentences, logged as `val/NAME`.

    Args:
        path: a jsonl, csv, tsv or parquet file, or a data set of the hub such as
            mteb/stsbenchmark-sts.
        name: name of the metric; if null, the file's stem or the hub's name.
        split: split of the hub's data set; a file is read whole.
        subset: subset of the hub's data set.
        columns: names of the columns: first sentence, second sentence, score.
        instruction: written directly before each sentence, and not pooled.
        batch_size: number of sentences that go through the decoder at once on each device.
        limit: number of pairs to measure, evenly spread over the file; all if null.

    Raises:
        UserError: if the data cannot be read.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        split: str = "validation",
        subset: str | None = None,
        columns: tuple[str, str, str] = COLUMNS,
        instruction: str = "",
        batch_size: int = 64,
        limit: int | None = None,
    ) -> None:
        _at_least("STSEvaluation.limit", limit, 2)
        with _naming("STSEvaluation.path"):
            self.task = STSTask.read(path, split, subset, columns, name).limited(limit)
        super().__init__(self.task.name, batch_size)
        self.instruction = instruction

    @override
    def measure(self, encoder: Encoder) -> dict[str, float]:
        value = evaluate_sts(
            encoder, self.task, self.batch_size, self.instruction, on_all_ranks=True
        )
        return {f"val/{self.name}": value}


class RetrievalEvaluation(Evaluation):
    """Retrieval by cosines, or by MaxSim if the objective is `LateInteraction`.

    It is logged as `val/NAME/ndcg@10`, `.../recall@1`, 10 and 100, and `.../mrr@10`.

    Args:
        path: a folder in BEIR's layout, or a data set of the hub in mteb's, such as mteb/scifact;
            the held-out documentation of the installed Python packages if null.
        name: name of the metrics; if null, the folder's or the data set's name.
        split: split of the judgements.
        query_instruction: written directly before each query, and not pooled.
        document_instruction: the same for documents.
        batch_size: number of texts that go through the decoder at once on each device.
        limit: number of queries to measure, evenly spread; all if null.
        limit_documents: number of documents to search, including those that answer a query; all
            if null. Fewer documents make an easier task.

    Raises:
        UserError: if the data cannot be read.
    """

    def __init__(
        self,
        path: str | None = None,
        name: str | None = None,
        split: str = "test",
        query_instruction: str = "",
        document_instruction: str = "",
        batch_size: int = 64,
        limit: int | None = None,
        limit_documents: int | None = None,
    ) -> None:
        _at_least("RetrievalEvaluation.limit", limit, 1)
        _at_least("RetrievalEvaluation.limit_documents", limit_documents, 1)
        self.limits = limit, limit_documents
        self.query_instruction = query_instruction
        self.document_instruction = document_instruction
        self._task: RetrievalTask | None = None
        if path is not None:
            with _naming("RetrievalEvaluation.path"):
                read = RetrievalTask.from_folder if looks_local(path) else RetrievalTask.from_hub
                self._task = read(path, split, name).limited(*self.limits)
        super().__init__(self._task.name if self._task else name or "python_docs", batch_size)

    @property
    def task(self) -> RetrievalTask:
        """What is retrieved; Python's documentation is read on first use."""
        if self._task is None:
            from llm2vec_pl.data import PythonDocs

            self._task = PythonDocs().retrieval().limited(*self.limits)
        return self._task

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            for note in self.task.notes:
                rank_zero_info(note)

    @override
    def subject(self, pl_module: LightningModule) -> Any:
        return getattr(pl_module, "retriever", pl_module.encoder)

    @override
    def measure(self, encoder: Encoder | MultiVectorEncoder) -> dict[str, float]:
        metrics = evaluate_retrieval(
            encoder,
            self.task,
            self.batch_size,
            self.query_instruction,
            self.document_instruction,
            on_all_ranks=True,
        )
        return {f"val/{self.name}/{metric}": value for metric, value in metrics.items()}


@contextmanager
def _naming(argument: str) -> Iterator[None]:
    """Puts an argument's name before what is wrong with its value."""
    try:
        yield
    except UserError as error:
        raise UserError(f"`{argument}`: {error}") from error


def _at_least(argument: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UserError(f"`{argument}` expects at least {least}, but got {value}.")
