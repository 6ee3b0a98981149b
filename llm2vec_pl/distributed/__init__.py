"""Several processes: what they gather, and the weights that they share out (FSDP2)."""

from llm2vec_pl.distributed.gather import Repeated, gather_rows, mean_over_ranks, row_counts, world
from llm2vec_pl.distributed.sharded_checkpoint import before, is_shards, put_in_place, read_shards
from llm2vec_pl.distributed.sharding import (
    average_gradients,
    backward_within_forward,
    clip_gradients,
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
    "before",
    "clip_gradients",
    "forget_unfinished_pass",
    "gather_rows",
    "gathered_state",
    "gradient_norm",
    "is_sharded",
    "is_shards",
    "mean_over_ranks",
    "put_in_place",
    "read_shards",
    "row_counts",
    "shard_decoder",
    "world",
]
