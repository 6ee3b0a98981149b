"""Results of all models in a folder, beside the paper's: in the terminal and as Markdown."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from llm2vec_pl.evaluation.mteb.paper import (
    CATEGORIES,
    TRAINING,
    category_means,
    task_scores,
)

if TYPE_CHECKING:
    from llm2vec_pl.evaluation.mteb.installed import AbsTask

Scores = dict[str, dict[str, float]]  # model -> task, or `CATEGORY (N tasks)` -> score times 100

TITLE = "MTEB: main score of each task, times 100"
PAPER_NOTE = (
    "The paper's columns (LLM2Vec, Tables 1, 2, 11 and 12) were measured with MTEB 1, on models of "
    "1.3 to 8 B parameters: unsupervised is MNTP, then SimCSE; supervised is without SimCSE."
)


def results_in(out: str | Path, tasks: Sequence[str]) -> Scores:
    """The scores of every model that has results in a folder, the oldest first.

    Args:
        out: the folder that `evaluate_tasks` wrote to.
        tasks: the tasks to read.
    """
    from llm2vec_pl.evaluation.mteb.installed import TaskResult

    files = (Path(out).expanduser() / "results").rglob("model_meta.json")
    scores: Scores = {}
    for meta in sorted(files, key=lambda file: file.stat().st_mtime):
        found: dict[str, float] = {}
        for task in tasks:
            with contextlib.suppress(FileNotFoundError, ValueError):  # none, or half written
                result = TaskResult.from_disk(meta.with_name(f"{task}.json"))
                found[task] = 100 * float(result.get_score())
        if found:
            label = _label(meta)
            revision = meta.relative_to(Path(out).expanduser() / "results").parts[1]
            scores[label if label not in scores else f"{label} {revision}"] = found
    return scores


def with_means(scores: Scores, types: Mapping[str, str]) -> Scores:
    """Scores with the mean of each type of task, and of all tasks, below them.

    A model that lacks one of the tasks has no such mean.

    Args:
        scores: model -> task -> score.
        types: task -> MTEB's type, for all tasks.
    """
    groups = _groups(types)
    return {
        model: {**of, **{row: _mean(of, tasks) for row, tasks in groups.items() if _has(of, tasks)}}
        for model, of in scores.items()
    }


def paper_columns(types: Mapping[str, str]) -> Scores:
    """The paper's scores on those of these tasks that it has, and their means.

    Args:
        types: task -> MTEB's type.
    """
    columns: Scores = {}
    for training in TRAINING:
        means = category_means(training)
        for model, whole in means.items():
            try:
                known = task_scores(training, model)
            except ValueError:  # the paper has the means of this model only
                known = {}
            shown = {task: known[task] for task in types if task in known}
            columns[f"paper: {model} {training}"] = {
                **with_means({"": shown}, types)[""],
                **_whole_categories(whole, types),
            }
    return {name: column for name, column in columns.items() if column}


def print_results(scores: Scores, tasks: Mapping[str, AbsTask], out: str | Path) -> None:
    """Prints the table, and writes it as `OUT/table.md`.

    Args:
        scores: model -> task -> score times 100, of the user's models.
        tasks: the tasks, by name.
        out: the folder for the file.
    """
    from rich.console import Console
    from rich.table import Table

    types = {name: task.metadata.type for name, task in tasks.items()}
    columns = {**with_means(scores, types), **paper_columns(types)}
    ordered = sorted(types, key=lambda task: _place(types[task]))  # tasks keep their order
    rows = [*ordered, *_groups(types)]
    notes = [PAPER_NOTE] if len(columns) > len(scores) else []
    table = Table("task", title=TITLE)
    for name in columns:
        table.add_column(name.replace(" ", "\n"), justify="right")
    for row in rows:
        table.add_row(row, *(_cell(column, row) for column in columns.values()))
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, markup=False, highlight=False)
    lines = [f"| task | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for row in rows:
        cells = " | ".join(_cell(column, row) for column in columns.values())
        lines.append(f"| {row} | {cells} |")
    file = Path(out).expanduser() / "table.md"
    file.write_text("\n".join([*lines, "", *notes, ""]), encoding="utf-8")
    print(f"Wrote {file}")


def _groups(types: Mapping[str, str]) -> dict[str, list[str]]:
    """The rows of means: heading -> its tasks, of which there are several."""
    kinds = sorted(set(types.values()), key=_place)
    groups = {kind: [task for task in types if types[task] == kind] for kind in kinds}
    named = {f"{kind} ({len(tasks)})": tasks for kind, tasks in groups.items()}
    named[f"all ({len(types)})"] = list(types)
    return {name: tasks for name, tasks in named.items() if len(tasks) > 1}


def _whole_categories(means: dict[str, float], types: Mapping[str, str]) -> dict[str, float]:
    """The paper's own means, of categories that are here as a whole."""
    known = set(task_scores(TRAINING[0], "Mistral-7B"))
    if not set(types) <= known:
        return {}
    sizes = dict(zip((*CATEGORIES, "all"), (15, 4, 11, 3, 12, 10, 1, 56), strict=True))
    rows = _groups(types)
    return {
        f"{name} ({size})": means[name]
        for name, size in sizes.items()
        if f"{name} ({size})" in rows
    }


def _label(meta: Path) -> str:
    """A model's name in the table: without `local/`, with what was set for this evaluation."""
    content = json.loads(meta.read_text(encoding="utf-8"))
    settings = content.get("experiment_kwargs") or {}
    words = [f"{name}={value}" for name, value in settings.items()]
    return " ".join([str(content["name"]).removeprefix("local/"), *words])


def _has(scores: Mapping[str, float], tasks: Sequence[str]) -> bool:
    return all(task in scores for task in tasks)


def _mean(scores: Mapping[str, float], tasks: Sequence[str]) -> float:
    return fmean(scores[task] for task in tasks)


def _cell(scores: Mapping[str, float], row: str) -> str:
    return f"{scores[row]:.2f}" if row in scores else ""


def _place(kind: str) -> int:
    return CATEGORIES.index(kind) if kind in CATEGORIES else len(CATEGORIES)
