"""Blocks that are read, tokenised and packed while training, for text too large to keep twice."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import IterableDataset, get_worker_info

from llm2vec_pl.data.blocks import pack, tokenise
from llm2vec_pl.data.splits import Split, SplitTexts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llm2vec_pl.data.blocks import Tokens

_TEXTS_PER_CALL = 64  # few, so that the first batch comes soon and little is in memory


class StreamedBlocks(IterableDataset["Tokens"]):
    """The blocks of one split, made on the way.

    With `n` readers (ranks times workers) each takes every n-th text, so that none is lost or
    read twice; all of them read all rows, which is cheap beside tokenising. Each packs its own
    stream, so there is one short block per reader. Ranks may end up to a few blocks apart: train
    on several of them with `--trainer.max_steps` or `--trainer.limit_train_batches`.

    Args:
        texts: of the data set.
        split: the one to read.
        tokenizer: a fast tokenizer.
        max_length: tokens per block.
        shuffle_buffer: blocks in memory, of which the next is drawn; 0 keeps the order.
        seed: of the shuffling, which is a function of seed, epoch and reader.
        rank: of this process.
        world_size: processes that read.
    """

    def __init__(
        self,
        texts: SplitTexts,
        split: Split,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
        shuffle_buffer: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.texts = texts
        self.split = split
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next pass."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Tokens]:
        worker = get_worker_info()
        worker_id, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:  # the workers are the parallelism
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        reader = self.rank * workers + worker_id
        texts = self.texts.read(self.split, report=rank_zero_warn if reader == 0 else None)
        mine = islice(texts, reader, None, self.world_size * workers)
        blocks = pack(
            tokenise(mine, self.tokenizer, texts_per_call=_TEXTS_PER_CALL), self.max_length
        )
        order = random.Random(f"{self.seed} {self.epoch} {reader}")
        return shuffled(blocks, self.shuffle_buffer, order)


def shuffled(blocks: Iterable[Tokens], buffer_size: int, order: random.Random) -> Iterator[Tokens]:
    """All blocks, each drawn from a buffer of the next ones."""
    blocks = iter(blocks)
    if buffer_size <= 1:
        yield from blocks
        return
    buffer = list(islice(blocks, buffer_size))
    for block in blocks:
        chosen = order.randrange(buffer_size)
        yield buffer[chosen]
        buffer[chosen] = block
    order.shuffle(buffer)
    yield from buffer
