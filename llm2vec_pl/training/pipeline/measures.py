"""What a pipeline measures each encoder on, and the file that keeps the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2vec_pl.decoder import encoder_contents, file_contents
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import fingerprint, read_json, write_json
from llm2vec_pl.training import still_at

if TYPE_CHECKING:
    from llm2vec_pl.encoder import Encoder


@dataclass(frozen=True)
class Measure:
    """Something to measure each encoder on.

    Args:
        name: its name; no two measures of a pipeline have the same.
        of: what the result depends on beside the encoder, in values that JSON has.
        run: from an encoder to metrics by name.
        note: a line for the table, if only a part of the data is used.
    """

    name: str
    of: dict[str, Any] = field(compare=False)
    run: Callable[[Encoder], dict[str, float]] = field(compare=False)
    note: str = ""


def documentation() -> Measure:
    """Retrieval of the installed packages' documentation, with alignment and uniformity."""
    from llm2vec_pl.data import PythonDocs  # imports Lightning, which takes seconds

    def run(encoder: Encoder) -> dict[str, float]:
        from llm2vec_pl.evaluation import evaluate

        return evaluate(encoder)

    return Measure("docs", {"docs": fingerprint(PythonDocs().source())}, run)


def sts(path: str) -> Measure:
    """Spearman's correlation on a file of pairs with scores, under the file's name.

    Raises:
        UserError: if the file cannot be read.
    """
    from llm2vec_pl.evaluation import STSTask, evaluate_sts

    task = STSTask.read(path)
    return Measure(
        task.name,
        {"sts": path, "files": file_contents(path)},
        lambda encoder: {task.name: evaluate_sts(encoder, task)},
    )


def retrieval(path: str, queries: int | None = None, documents: int | None = None) -> Measure:
    """The metrics of `evaluate_retrieval` on a folder or a data set, as `NAME/METRIC`.

    Args:
        path: a folder in BEIR's layout, or a data set of the hub in mteb's.
        queries: the most queries to measure; all if None.
        documents: the most documents to search; all if None.

    Raises:
        UserError: if the data cannot be read.
    """
    from llm2vec_pl.data import RetrievalTask
    from llm2vec_pl.data.files import looks_local
    from llm2vec_pl.evaluation import evaluate_retrieval

    whole = (RetrievalTask.from_folder if looks_local(path) else RetrievalTask.from_hub)(path)
    task = whole.limited(queries, documents)
    parts = [
        f"{len(some):,} of {len(all_of_them):,} {what}"
        for some, all_of_them, what in (
            (task.queries, whole.queries, "queries"),
            (task.corpus, whole.corpus, "documents"),
        )
        if len(some) < len(all_of_them)
    ]
    easier = ". Fewer documents make an easier task" if "documents" in "".join(parts) else ""

    def run(encoder: Encoder) -> dict[str, float]:
        metrics = evaluate_retrieval(encoder, task)
        return {f"{task.name}/{metric}": value for metric, value in metrics.items()}

    return Measure(
        task.name,
        {"retrieval": path, "limits": [queries, documents], "files": _of_folder(path)},
        run,
        f"{task.name}: {' and '.join(parts)}{easier}." if parts else "",
    )


def classification(path: str, texts: int | None = None) -> Measure:
    """The accuracy of `evaluate_classification` on a folder or a data set, under its name.

    Args:
        path: a folder with a training and a test file, or a data set of the hub.
        texts: the most texts to classify; all if None.

    Raises:
        UserError: if the data cannot be read, or scikit-learn is not installed.
    """
    from llm2vec_pl.evaluation import ClassificationTask, evaluate_classification

    whole = ClassificationTask.read(path)
    task = whole.limited(texts)
    some, all_of_them = len(task.test_texts), len(whole.test_texts)
    return Measure(
        task.name,
        {"classification": path, "limit": texts, "files": _of_folder(path)},
        lambda encoder: {task.name: evaluate_classification(encoder, task)},
        f"{task.name}: {some:,} of {all_of_them:,} texts." if some < all_of_them else "",
    )


def different(measures: Iterable[Measure]) -> list[Measure]:
    """The measures, if each has a name of its own.

    Raises:
        UserError: if two have the same.
    """
    known: dict[str, Measure] = {}
    for measure in measures:
        if measure.name in known:
            raise UserError(
                f"Two evaluations are called {measure.name!r}, and the table could not tell them "
                "apart. Give one of the files or folders another name, by a link or a copy."
            )
        known[measure.name] = measure
    return list(known.values())


class Results:
    """What was measured, in a file, so that nothing is measured twice.

    Args:
        file: the file; it need not exist.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def row(
        self, row: str, model_name: str, measures: Sequence[Measure], **options: Any
    ) -> dict[str, float]:
        """The metrics of an encoder: from the file, or measured now if something has changed.

        Args:
            row: the name under which the file keeps them.
            model_name: any `--encoder.model_name`.
            measures: what to measure.
            options: further arguments of `Encoder.from_pretrained`.
        """
        contents = encoder_contents(model_name)
        encoder, metrics = None, {}
        for measure in measures:
            key = {"encoder": model_name, "contents": contents, **measure.of}
            results = read_json(self.file)
            known = results.get(row, {}).get(measure.name, {})
            if known.get("of") != key:
                if encoder is None:
                    from llm2vec_pl.encoder import Encoder

                    encoder = Encoder.from_pretrained(model_name, **options)
                print(f"measuring {row} on {measure.name}", flush=True)
                with still_at(f"measuring {row} on {measure.name}"):
                    known = {"of": key, "metrics": measure.run(encoder)}
                kept = {name: of for name, of in results.get(row, {}).items() if "of" in of}
                results[row] = {**kept, measure.name: known}
                self.file.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.file, results)
            metrics.update(known["metrics"])
        return metrics


def _of_folder(path: str) -> dict[str, str]:
    """The fingerprints of the files in a folder; none for a data set of the hub."""
    folder = Path(path).expanduser()
    files = [str(file) for file in sorted(folder.rglob("*")) if file.is_file()]
    return file_contents(files) if folder.is_dir() else {}
