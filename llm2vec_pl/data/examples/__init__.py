"""Rows -> queries with positives and negatives, and batches of them; for step 3."""

from llm2vec_pl.data.examples.batches import TaskBatchSampler, TaskRows
from llm2vec_pl.data.examples.candidates import Columns, GoodCandidates
from llm2vec_pl.data.examples.contrastive_batch import Task, TextBatch, TextBatches, Tokenised
from llm2vec_pl.data.examples.example import Candidates, Example
from llm2vec_pl.data.examples.examples import (
    ArrowExamples,
    ListedExamples,
    digest,
    write_candidates,
)
from llm2vec_pl.data.examples.instructions import Instruction, read_instructions
from llm2vec_pl.data.examples.task_sources import TaskSource, open_tasks, unknown_files
from llm2vec_pl.data.examples.token_batches import TokenBatchSampler
from llm2vec_pl.data.examples.token_counts import TokenCounter

__all__ = [
    "ArrowExamples",
    "Candidates",
    "Columns",
    "Example",
    "GoodCandidates",
    "Instruction",
    "ListedExamples",
    "Task",
    "TaskBatchSampler",
    "TaskRows",
    "TaskSource",
    "TextBatch",
    "TextBatches",
    "TokenBatchSampler",
    "TokenCounter",
    "Tokenised",
    "digest",
    "open_tasks",
    "read_instructions",
    "unknown_files",
    "write_candidates",
]
