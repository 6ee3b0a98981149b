"""What a training step needs on one device, in bytes, before it runs.

Weights are counted on a model without data (or on the loaded encoder); activations are measured
by running its layers on tensors without data. Neither needs memory, a GPU, or more than a second
or two. Not included are the CUDA context and NCCL's buffers (together 1 to 2 GiB), and what the
allocator loses between blocks.
"""

from llm2vec_pl.training.memory.estimates import estimate, estimate_of
from llm2vec_pl.training.memory.free import free_memory
from llm2vec_pl.training.memory.resident import (
    resident_after,
    resident_line,
    resident_now,
    resident_peak,
)
from llm2vec_pl.training.memory.step import Memory, Step, gib
from llm2vec_pl.training.memory.weight_sizes import WeightQuantization

__all__ = [
    "Memory",
    "Step",
    "WeightQuantization",
    "estimate",
    "estimate_of",
    "free_memory",
    "gib",
    "resident_after",
    "resident_line",
    "resident_now",
    "resident_peak",
]
