"""Batches of blocks that are read, tokenised and packed while training, and resume exactly."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import IterableDataset, get_worker_info

from llm2vec_pl.data.blocks.placed_blocks import Cursor, placed_blocks, shuffled_in_groups
from llm2vec_pl.data.files import Shard, Split, SplitTexts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llm2vec_pl.data.blocks.blocks import Tokens


class Turn(NamedTuple):
    """What a reader gives on its turn."""

    reader: int
    cursor: Cursor  # after the batch
    batch: Any  # None if the reader has come to its end


class StreamedBlocks(IterableDataset[Turn]):
    """Batches of blocks of one split, made on the fly by one rank's readers in turn.

    With `n` readers, each reads every n-th row, so that none is lost or read twice, and packs its
    own stream. There are as many readers as ranks times workers; an epoch that began with more
    readers keeps their number, with several in one process.

    Ranks may end a few blocks apart; `StreamLoader` keeps them in step.

    Args:
        texts: the texts of the data set.
        split: the split to read.
        tokenizer: a fast tokenizer.
        max_length: tokens per block.
        batch_size: blocks per batch; a reader's last one may be smaller.
        collate: makes a batch of blocks.
        shuffle_buffer: number of consecutive blocks that are shuffled; 0 keeps the order.
        seed: seed of the shuffling, which is a function of seed, epoch and reader.
        control_tokens: read control tokens that are spelled out in a text as control tokens.
    """

    def __init__(
        self,
        texts: SplitTexts,
        split: Split,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
        batch_size: int,
        collate: Callable[[list[Tokens]], Any],
        shuffle_buffer: int = 0,
        seed: int = 0,
        control_tokens: bool = False,
    ) -> None:
        self.texts = texts
        self.split = split
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.batch_size = batch_size
        self.collate = collate
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self.control_tokens = control_tokens
        self.epoch = 0
        self.begin({0: Cursor()}, 1)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass."""
        self.epoch = epoch

    def begin(self, cursors: dict[int, Cursor], readers: int) -> None:
        """Sets where the next pass begins.

        Args:
            cursors: cursors of this rank's readers, in the order of their turns.
            readers: number of readers of all ranks.
        """
        self.cursors = cursors
        self.readers = readers

    def __iter__(self) -> Iterator[Turn]:
        worker = get_worker_info()
        worker_id, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:  # the workers are the parallelism
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        mine = dict(islice(self.cursors.items(), worker_id, None, workers))
        batches = {reader: self._batches(reader, cursor) for reader, cursor in mine.items()}
        ended: set[int] = set()
        for reader in cycle(batches):
            turn = next(batches[reader], None)
            if turn is None:
                ended.add(reader)
            if len(ended) == len(batches):
                return
            yield turn or Turn(reader, Cursor(), None)  # passes, so that the order of turns is kept

    def _batches(self, reader: int, cursor: Cursor) -> Iterator[Turn]:
        shard = Shard(reader, self.readers, start=cursor.row)

        def report(summary: str) -> None:
            rank_zero_warn(f"reader {reader + 1:,} of {self.readers:,} {summary}")

        texts = self.texts.numbered(self.split, shard, report)
        blocks = shuffled_in_groups(
            placed_blocks(
                texts, self.tokenizer, self.max_length, cursor.offset, self.control_tokens
            ),
            max(1, self.shuffle_buffer),
            f"{self.seed} {self.epoch} {reader}",
            cursor.handed_out,
        )
        while batch := list(islice(blocks, self.batch_size)):
            tokens = [block for block, _ in batch]
            yield Turn(reader, batch[-1][1], self.collate(tokens))
