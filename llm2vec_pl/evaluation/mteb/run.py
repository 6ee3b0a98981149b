"""Evaluation on tasks of MTEB: one after another, with results as MTEB keeps them."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2vec_pl.decoder import encoder_contents
from llm2vec_pl.encoder import Encoder, whole_batch_size
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.mteb.embeddings import Embeddings
from llm2vec_pl.files import fingerprint, is_full

if TYPE_CHECKING:
    from llm2vec_pl.evaluation.mteb.encoder import MTEBEncoder
    from llm2vec_pl.evaluation.mteb.installed import AbsTask, ResultCache

_FORMAT = 1  # of cached embeddings, and of what a revision stands for


def open_for_mteb(
    model_name: str,
    devices: Sequence[str] = ("cpu",),
    instructions: str = "paper",
    keep_embeddings: bool = True,
    name: str | None = None,
    **overrides: Any,
) -> MTEBEncoder:
    """An encoder, ready for `mteb.evaluate` or `evaluate_tasks`.

    Its revision is a fingerprint of all that its results depend on.

    Args:
        model_name: a stage's folder, or any other `model_name` of `Encoder`.
        devices: where it embeds; several have a process each.
        instructions: `paper`, `model`, `none` or a YAML file; see `Instructions`.
        keep_embeddings: keep embeddings on disk, for other tasks and runs.
        name: the model's name in results; made from `model_name` by default.
        overrides: arguments of `Encoder` that replace the folder's own settings.

    Raises:
        UserError: if the encoder or the instructions cannot be read, or mteb is not installed.
    """
    from llm2vec_pl.evaluation.mteb.encoder import MTEBEncoder
    from llm2vec_pl.evaluation.mteb.instructions import PAPER, Instructions

    encoder = Encoder.from_pretrained(model_name, **overrides)
    words = Instructions(instructions, encoder.prompts)
    recipe = {
        "format": _FORMAT,
        "contents": encoder_contents(model_name),
        "settings": encoder.settings(),
        "overrides": overrides,
    }
    other = {} if instructions == PAPER else {"instructions": instructions}
    return MTEBEncoder(
        encoder,
        name=result_name(name or model_name),
        revision=fingerprint({**recipe, "instructions": words.fingerprint()}),
        instructions=words,
        embeddings=Embeddings(encoder, recipe if keep_embeddings else None, devices),
        experiment={**overrides, **other},
    )


def result_name(model_name: str) -> str:
    """A name that MTEB takes, `organization/model`: of a folder, its last three parts.

    >>> result_name("runs/simcse/version_0/encoder")
    'local/runs-simcse-version_0'
    """
    path = Path(model_name).expanduser()
    if not path.exists() and model_name.count("/") == 1:
        return model_name  # on the hub
    parts = [part for part in path.parts if part not in (path.anchor, "..", ".")]
    if parts[-1:] == ["encoder"]:
        parts = parts[:-1]
    return f"local/{'-'.join(parts[-3:])}"


def evaluate_tasks(
    model: MTEBEncoder,
    tasks: Mapping[str, AbsTask],
    out: str | Path,
    batch_size: int = 32,
    report: Callable[[str], object] = print,
) -> dict[str, float]:
    """The main score of each task, from MTEB's own evaluation.

    Results are files of MTEB's, `OUT/results/MODEL/REVISION/TASK.json`. A task that has them is not
    evaluated again, unless they are incomplete or of other data. A task whose data cannot be had
    does not keep the others from being evaluated.

    Args:
        model: the encoder.
        tasks: the tasks, by name.
        out: the folder for results.
        batch_size: most texts that go through the decoder at once.
        report: called with a line for each task.

    Returns:
        Task -> main score, in the scale of MTEB's files, mostly [0, 1].

    Raises:
        UserError: at the end, if the data of tasks could not be had; at once, if results cannot be
            written, or `batch_size` is not a positive whole number.
    """
    from llm2vec_pl.evaluation.mteb.installed import ResultCache

    batch_size = whole_batch_size(batch_size)
    results = ResultCache(Path(out).expanduser())
    scores: dict[str, float] = {}
    problems: list[str] = []
    try:
        for name, task in tasks.items():
            start = time.monotonic()
            try:
                is_new = not _has_results(results, model, task, report)
                scores[name] = _score(model, task, results, batch_size)
            except DataError as error:
                problems.append(str(error))
                report(f"{name}: no data")
                continue
            took = f"{time.monotonic() - start:.0f} s" if is_new else "evaluated before"
            report(f"{name} ({task.metadata.type}): {100 * scores[name]:.2f}, {took}")
    finally:
        model.embeddings.close()
    if problems:
        raise UserError("\n".join(problems))
    return scores


class DataError(UserError):
    """The data of a task cannot be had."""


def _score(model: MTEBEncoder, task: AbsTask, results: ResultCache, batch_size: int) -> float:
    from llm2vec_pl.evaluation.mteb.installed import mteb
    from llm2vec_pl.evaluation.mteb.tasks import parts

    for part in parts(task):
        _explain_missing_data(part)
    logging.getLogger("mteb").setLevel(logging.ERROR)
    with warnings.catch_warnings(), _without_bars():
        warnings.filterwarnings("ignore", module=r"mteb\.|sklearn\.|datasets\.")
        try:
            found = mteb.evaluate(
                model,
                task,
                cache=results,
                encode_kwargs={"batch_size": batch_size},
                show_progress_bar=False,
            )
        except OSError as error:
            if not is_full(error) and not str(error.filename).startswith(str(results.cache_path)):
                raise
            raise UserError(
                f"Cannot write results to {results.cache_path}: {error.strerror}. Free some space, "
                "or name another folder as `out`."
            ) from error
    return float(found.task_results[0].get_score())


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Without a bar of `datasets` for each of the little steps of a task."""
    from datasets.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    were_off = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            enable_progress_bars()


def _has_results(
    results: ResultCache, model: MTEBEncoder, task: AbsTask, report: Callable[[str], object]
) -> bool:
    """Whether a task has whole results; what is half written, or of other data, is deleted."""
    from llm2vec_pl.evaluation.mteb.installed import AbsTaskAggregate, TaskResult

    file = results.get_task_result_path(task.metadata.name, model.mteb_model_meta)
    settings = file.with_name("run_settings.jsonl")
    if settings.is_file() and not _is_whole(settings):
        settings.unlink()
    if not file.is_file():
        return False
    try:
        found = TaskResult.from_disk(file)
    except ValueError:  # JSON or its content
        report(f"{file} is incomplete and is written again")
        file.unlink()
        return False
    revision = task.metadata.revision
    if not isinstance(task, AbsTaskAggregate) and found.dataset_revision != revision:
        report(f"{file} is of other data and is written again")
        file.unlink()
        return False
    return not found.get_missing_evaluations(task)


def _is_whole(file: Path) -> bool:
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            json.loads(line)
    except ValueError:
        return False
    return True


def _explain_missing_data(task: AbsTask) -> None:
    """Has a task say what to do if its data cannot be loaded."""
    load = type(task).load_data
    name, path = task.metadata.name, task.metadata.dataset["path"]

    def load_data(*args: Any, **kwargs: Any) -> None:
        try:
            load(task, *args, **kwargs)
        except UserError as error:  # local files
            raise DataError(str(error)) from error
        except Exception as error:  # whatever a hub that cannot be reached leads to
            lines = str(error).strip().splitlines()
            raise DataError(
                f"{name}: its data, {path}, cannot be loaded from the hub "
                f"({type(error).__name__}: {lines[0] if lines else 'no message'}). Without a "
                "network, put a copy into the hub's cache (HF_HOME), or local files into "
                "`data_dir`."
            ) from error

    task.load_data = load_data  # type: ignore[method-assign]
