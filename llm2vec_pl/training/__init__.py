"""What surrounds training: checkpoints, resuming, what a run leaves, and what stops a bad one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm2vec_pl import lazy_exports

if TYPE_CHECKING:
    from llm2vec_pl.training.command import Command, Help, Parser
    from llm2vec_pl.training.comparison import Comparison
    from llm2vec_pl.training.console import silence_noise
    from llm2vec_pl.training.consolidation import consolidate
    from llm2vec_pl.training.failures import no_process_left
    from llm2vec_pl.training.lines import on_terminal, say, still_at
    from llm2vec_pl.training.pace import duration
    from llm2vec_pl.training.seeds import SeededCommand
    from llm2vec_pl.training.show_batch import ShowBatch
    from llm2vec_pl.training.signals import StopSignals
    from llm2vec_pl.training.word_results import measure_tagger, report_seeds

__all__ = [
    "Command",
    "Comparison",
    "Help",
    "Parser",
    "SeededCommand",
    "ShowBatch",
    "StopSignals",
    "consolidate",
    "duration",
    "measure_tagger",
    "no_process_left",
    "on_terminal",
    "report_seeds",
    "say",
    "silence_noise",
    "still_at",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Command": "command",
        "Comparison": "comparison",
        "Help": "command",
        "Parser": "command",
        "SeededCommand": "seeds",
        "ShowBatch": "show_batch",
        "StopSignals": "signals",
        "consolidate": "consolidation",
        "duration": "pace",
        "measure_tagger": "word_results",
        "no_process_left": "failures",
        "on_terminal": "lines",
        "report_seeds": "word_results",
        "say": "lines",
        "silence_noise": "console",
        "still_at": "lines",
    },
)
