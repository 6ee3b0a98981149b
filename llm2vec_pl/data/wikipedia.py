"""Wikipedia, or any other text: a data set of the hub or local files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from llm2vec_pl.data.blocks import StreamedBlocks
from llm2vec_pl.data.files import SPLITS, OnBadRow, Split, SplitTexts, open_source
from llm2vec_pl.data.text_blocks import TextBlocks
from llm2vec_pl.errors import UserError


class Wikipedia(TextBlocks):
    """WikiText-103, or the text of any hub data set or local txt, jsonl, csv or parquet files.

    Splits named train or valid (validation, val, dev) are used. Without one for validation, 1 % of
    the texts is held out, chosen by a hash of the text. The blocks are kept on disk and mapped
    into memory, unless `streaming`.

    Args:
        path: a file, a folder or a hub data set; WikiText-103 by default.
        subset: the hub data set's configuration.
        column: the column with the text; not used for txt files, which have one text per line.
        max_length: tokens per block; the encoder's `max_length` by default.
        batch_size: blocks per batch and device.
        max_rows: rows to read of each split; all by default.
        num_proc: processes that tokenise for the cache; with 1, the tokenizer uses its own threads.
        num_workers: processes that load batches; when streaming, they also tokenise.
        streaming: read, tokenise and pack while training, keeping nothing on disk and little in
            memory. The length of an epoch is then unknown: set the trainer's `max_steps`. On
            several devices, an epoch ends when the first device has come to the end of its share.
            A resumed run needs the same total number of workers on all devices as before, or a
            divisor of it. Without a validation split, 100 of the first 1,000 texts are held out,
            chosen by their hashes.
        shuffle_buffer: number of consecutive blocks that each worker shuffles when streaming; twice
            as many are in memory. 0 keeps the order.
        on_bad_row: what to do with a row that is null, empty, not a string or cannot be read.
        seed: seed of the order of the blocks, which is a function of seed and epoch.
    """

    def __init__(
        self,
        path: str | None = None,
        subset: str | None = None,
        column: str = "text",
        max_length: int | None = None,
        batch_size: int = 32,
        max_rows: int | None = None,
        num_proc: int = 1,
        num_workers: int = 0,
        streaming: bool = False,
        shuffle_buffer: int = 1000,
        on_bad_row: OnBadRow = "error",
        seed: int = 0,
    ) -> None:
        super().__init__(max_length, batch_size, num_proc, num_workers, seed)
        if max_rows is not None and max_rows < 1:
            raise UserError(f"`max_rows` expects at least 1, but got {max_rows}.")
        self.column = column
        self.streaming = streaming
        self.shuffle_buffer = shuffle_buffer
        source = open_source(path, subset, column, streaming)
        self._texts = SplitTexts(source, on_bad_row, max_rows, sampled=streaming)

    @override
    def texts(self, split: Split) -> Iterator[str]:
        return self._texts.read(split, report=self.note)

    @override
    def source(self) -> dict[str, Any]:
        return {"texts": self._texts.identity(), "column": self.column}

    @override
    def prepare_data(self) -> None:
        if not self.streaming:
            super().prepare_data()

    @override
    def setup(self, stage: str | None = None) -> None:
        for note in self._about_the_source() if stage in (None, "fit") else []:
            rank_zero_info(f"{type(self).__name__}: {note}")
        if not self.streaming:
            super().setup(stage)
            return
        if "validation" not in self._texts.source.splits:
            _ = self._texts.sample  # read once here, not in each worker
        self.blocks = {
            split: StreamedBlocks(
                self._texts,
                split,
                self.tokenizer,
                self.max_length,
                self.batch_size,
                self.collate,
                shuffle_buffer=self.shuffle_buffer if split == "train" else 0,
                seed=self.seed,
                control_tokens=self.control_tokens,
            )
            for split in SPLITS
        }

    def _about_the_source(self) -> list[str]:
        notes = [*self._texts.source.notes]
        if self.streaming:
            notes.append(f"streaming blocks of {self.length_and_why}")
            if "validation" not in self._texts.source.splits:
                notes.append(f"validated on {len(self._texts.sample)} of the first texts")
        return notes
