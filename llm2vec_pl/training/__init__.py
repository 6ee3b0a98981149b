"""What surrounds training: checkpoints, resuming, what a run leaves, and what stops a bad one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm2vec_pl import lazy_exports

if TYPE_CHECKING:
    from llm2vec_pl.training.command import Command, Help, Parser
    from llm2vec_pl.training.comparison import Comparison
    from llm2vec_pl.training.console import silence_noise
    from llm2vec_pl.training.consolidation import consolidate
    from llm2vec_pl.training.lines import still_at
    from llm2vec_pl.training.show_batch import ShowBatch

__all__ = [
    "Command",
    "Comparison",
    "Help",
    "Parser",
    "ShowBatch",
    "consolidate",
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
        "consolidate": "consolidation",
        "silence_noise": "console",
        "still_at": "lines",
    },
)
