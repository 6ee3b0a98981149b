"""Texts -> blocks of tokens, kept on disk or streamed; for step 2."""

from llm2vec_pl.data.blocks.blocks import (
    Blocks,
    Tokens,
    collate_blocks,
    pack,
    tokenise,
    write_blocks,
)
from llm2vec_pl.data.blocks.row_batches import RepeatedRows, RowBatchSampler, RowsOf
from llm2vec_pl.data.blocks.stream_loader import StreamLoader
from llm2vec_pl.data.blocks.streaming import StreamedBlocks

__all__ = [
    "Blocks",
    "RepeatedRows",
    "RowBatchSampler",
    "RowsOf",
    "StreamLoader",
    "StreamedBlocks",
    "Tokens",
    "collate_blocks",
    "pack",
    "tokenise",
    "write_blocks",
]
