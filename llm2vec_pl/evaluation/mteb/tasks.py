"""Tasks of MTEB by name, and lists of them."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping, Sequence
from functools import cache

from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.mteb.installed import TASK_LIST, AbsTask, AbsTaskAggregate, mteb
from llm2vec_pl.evaluation.mteb.paper import SUBSET

BENCHMARKS = {"eng-v1": "MTEB(eng, v1)", "eng-v2": "MTEB(eng, v2)"}
PAPER = "paper"
LOCAL = "local"

Tasks = dict[str, AbsTask]


def chosen_tasks(names: Sequence[str], local: Mapping[str, AbsTask] | None = None) -> Tasks:
    """The tasks of these names, each once, in their order; in English, if they have it.

    Args:
        names: names of tasks, or `paper` (the 15 of the paper's ablations), `eng-v1` (56 tasks),
            `eng-v2` (41 tasks), `local` (all that are in the folder of local data).
        local: tasks with local data, which come before MTEB's of the same name.

    Raises:
        UserError: for an unknown name, with similar ones, or a task that is not about texts.
    """
    local = local or {}
    tasks: Tasks = {}
    for name in names:
        if name == LOCAL and not local:
            raise UserError(f"The tasks {LOCAL!r} are those of `data_dir`. Name a folder there.")
        for each in _listed(name, local):
            tasks[each] = local.get(each) or _task(each, local)
    if not tasks:
        raise UserError("`tasks`: expected at least one name of a task, but got none.")
    return tasks


def known_task(name: str) -> AbsTask | None:
    """MTEB's task of this name, restricted to English; None if there is none."""
    if (task := _of_benchmarks().get(name)) is not None:
        return task
    try:
        task = mteb.get_task(name)
    except KeyError:
        return None
    with contextlib.suppress(ValueError):  # it has no English part
        task.filter_languages(["eng"])
    return task


def parts(task: AbsTask) -> list[AbsTask]:
    """The tasks that a task is the mean of, or the task itself."""
    return list(task.tasks) if isinstance(task, AbsTaskAggregate) else [task]


def _listed(name: str, local: Mapping[str, AbsTask]) -> list[str]:
    if name == PAPER:
        return list(SUBSET)
    if name == LOCAL:
        return list(local)
    if name in BENCHMARKS:
        return [task.metadata.name for task in mteb.get_benchmark(BENCHMARKS[name]).tasks]
    return [name]


def _task(name: str, local: Mapping[str, AbsTask]) -> AbsTask:
    task = known_task(name)
    if task is None:
        raise UserError(f"`tasks`: there is no task {name!r}. {_similar(name, local)}")
    if task.modalities != ["text"]:
        raise UserError(
            f"`tasks`: {name} is about {' and '.join(task.modalities)}, not about text."
        )
    return task


def _similar(name: str, local: Mapping[str, AbsTask]) -> str:
    all_tasks = (task.metadata.name for task in TASK_LIST)
    known = [PAPER, LOCAL, *BENCHMARKS, *local, *all_tasks]
    by_lower_case = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=3)
    if not close:
        return f"The lists are {PAPER}, {', '.join(BENCHMARKS)} and {LOCAL}."
    return f"Did you mean {' or '.join(by_lower_case[each] for each in close)}?"


@cache
def _of_benchmarks() -> Tasks:
    """The tasks of the English benchmarks, which say which part of a task is meant."""
    benchmarks = [mteb.get_benchmark(name) for name in reversed(BENCHMARKS.values())]
    return {task.metadata.name: task for each in benchmarks for task in each.tasks}
