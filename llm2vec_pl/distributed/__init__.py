"""Several processes: gathering tensors from all ranks, and sharding weights (FSDP2)."""

from llm2vec_pl.distributed.gather import Repeated, gather_rows, mean_over_ranks, row_counts, world
from llm2vec_pl.distributed.optimizer_settings import resumed_settings
from llm2vec_pl.distributed.sharded_checkpoint import is_shards, read_shards
from llm2vec_pl.distributed.sharding import (
    average_gradients,
    backward_within_forward,
    clip_gradients,
    equal_on_all_ranks,
    forget_unfinished_pass,
    gathered_state,
    gradient_norm,
    is_sharded,
    shard_decoder,
)

__all__ = [
    "Repeated",
    "average_gradients",
    "backward_within_forward",
    "clip_gradients",
    "equal_on_all_ranks",
    "forget_unfinished_pass",
    "gather_rows",
    "gathered_state",
    "gradient_norm",
    "is_sharded",
    "is_shards",
    "mean_over_ranks",
    "read_shards",
    "resumed_settings",
    "row_counts",
    "shard_decoder",
    "world",
]
