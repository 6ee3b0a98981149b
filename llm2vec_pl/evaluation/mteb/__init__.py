"""MTEB's tasks, on the hub's data or local files, with the paper's instructions and numbers.

The public names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm2vec_pl import lazy_exports

if TYPE_CHECKING:
    from llm2vec_pl.evaluation.mteb.encoder import MTEBEncoder
    from llm2vec_pl.evaluation.mteb.instructions import Instructions
    from llm2vec_pl.evaluation.mteb.local import local_tasks
    from llm2vec_pl.evaluation.mteb.report import print_results, results_in
    from llm2vec_pl.evaluation.mteb.run import evaluate_tasks, open_for_mteb
    from llm2vec_pl.evaluation.mteb.tasks import chosen_tasks

__all__ = [
    "Instructions",
    "MTEBEncoder",
    "chosen_tasks",
    "evaluate_tasks",
    "local_tasks",
    "open_for_mteb",
    "print_results",
    "results_in",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Instructions": "instructions",
        "MTEBEncoder": "encoder",
        "chosen_tasks": "tasks",
        "evaluate_tasks": "run",
        "local_tasks": "local",
        "open_for_mteb": "run",
        "print_results": "report",
        "results_in": "report",
    },
)
