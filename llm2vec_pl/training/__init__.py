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
    from llm2vec_pl.training.show_batch import ShowBatch
    from llm2vec_pl.training.signals import StopSignals

__all__ = [
    "Command",
    "Comparison",
    "Help",
    "Parser",
    "ShowBatch",
    "StopSignals",
    "consolidate",
    "duration",
    "no_process_left",
    "on_terminal",
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
        "ShowBatch": "show_batch",
        "StopSignals": "signals",
        "consolidate": "consolidation",
        "duration": "pace",
        "no_process_left": "failures",
        "on_terminal": "lines",
        "say": "lines",
        "silence_noise": "console",
        "still_at": "lines",
    },
)
