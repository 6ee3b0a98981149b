"""What words are in an encoder's hidden states: linear probes of decoders, encoders and layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm2vec_pl import lazy_exports

if TYPE_CHECKING:
    from llm2vec_pl.evaluation.word_probe.comparison import Probed, compare
    from llm2vec_pl.evaluation.word_probe.linear import Training, probe
    from llm2vec_pl.evaluation.word_probe.results import Results, Summary
    from llm2vec_pl.evaluation.word_probe.tables import report
    from llm2vec_pl.evaluation.word_probe.task import ProbeTask

__all__ = ["ProbeTask", "Probed", "Results", "Summary", "Training", "compare", "probe", "report"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Training": "linear",
        "ProbeTask": "task",
        "Probed": "comparison",
        "Results": "results",
        "Summary": "results",
        "compare": "comparison",
        "probe": "linear",
        "report": "tables",
    },
)
