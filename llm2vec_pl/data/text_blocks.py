"""What the data modules of running text share: the tokenizer, the cache and the loaders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from llm2vec_pl.data.blocks import (
    Blocks,
    RepeatedRows,
    RowBatchSampler,
    RowsOf,
    StreamedBlocks,
    StreamLoader,
    collate_blocks,
    pack,
    tokenise,
    write_blocks,
)
from llm2vec_pl.data.encoder_data import EncoderData
from llm2vec_pl.data.files import SPLITS, Split
from llm2vec_pl.data.resuming import FitProgress, ResumableLoader
from llm2vec_pl.distributed import Repeated
from llm2vec_pl.encoder import tokenizer_content
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import cached_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from llm2vec_pl.data.blocks import Tokens


class TextBlocks(EncoderData):
    """Running text as blocks of `max_length` tokens, tokenised once and read from disk.

    A subclass defines the texts (`texts`) and what they depend on (`source`).

    Args:
        max_length: tokens per block; the encoder's `max_length` if None.
        batch_size: blocks per batch and device.
        num_proc: processes that tokenise; with 1, the tokenizer uses its own threads.
        num_workers: processes that load batches.
        seed: seed of the order of the blocks, which is a function of seed and epoch.
    """

    def __init__(
        self, max_length: int | None, batch_size: int, num_proc: int, num_workers: int, seed: int
    ) -> None:
        super().__init__()
        for name, value, least in [
            ("data.max_length", max_length, 2),
            ("batch_size", batch_size, 1),
            ("num_proc", num_proc, 1),
            ("num_workers", num_workers, 0),
        ]:
            if value is not None and value < least:
                raise UserError(f"`{name}` expects at least {least}, but got {value}.")
        self._max_length = max_length
        self.batch_size = batch_size
        self.num_proc = num_proc
        self.num_workers = num_workers
        self.seed = seed
        self.blocks: dict[Split, Dataset[Any]] = {}
        self._notes: list[str] = []

    def texts(self, split: Split) -> Iterator[str]:
        """The texts of a split, in a fixed order, read again at each call."""
        raise NotImplementedError

    def source(self) -> dict[str, Any]:
        """Everything the texts depend on, as JSON: part of the cache's fingerprint."""
        raise NotImplementedError

    @property
    def max_length(self) -> int:
        """Tokens per block."""
        return self._max_length or self.encoder_length or 512

    @property
    def control_tokens(self) -> bool:
        """Whether control tokens spelled out in a text are read as such: the encoder's rule."""
        return bool(getattr(self.attached_tokenizer, "control_tokens", False))

    @property
    def encoder_length(self) -> int | None:
        """The most tokens of a text that the encoder reads; None for a tokenizer alone."""
        length = getattr(self.attached_tokenizer, "max_length", None)
        return length if isinstance(length, int) else None

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of the module being trained, or the one attached."""
        return cast("PreTrainedTokenizerFast", getattr(self.attached, "tokenizer", self.attached))

    def prepare_data(self) -> None:
        """Writes the cache if it does not exist yet; once on each node."""
        self._cached_blocks()

    def setup(self, stage: str | None = None) -> None:
        """Maps the cached blocks of both splits into memory."""
        folder = self._cached_blocks()
        self.blocks = {split: Blocks(folder / f"{split}.arrow") for split in SPLITS}
        if stage in (None, "fit"):
            self._announce(json.loads((folder / "notes.json").read_text()))

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training blocks, in a different order each epoch."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation blocks, in order."""
        return self._loader("validation")

    def note(self, line: str) -> None:
        """Keeps a line about the texts just read, such as skipped rows, to print on each use."""
        self._notes.append(line)

    def _cached_blocks(self) -> Path:
        recipe = {
            "format": 1,
            "source": self.source(),
            "tokenizer": tokenizer_content(self.tokenizer),
            "max_length": self.max_length,
            **({"control_tokens": True} if self.control_tokens else {}),
        }
        return cached_folder(f"blocks-{type(self).__name__}", recipe, self._write)

    def _write(self, folder: Path) -> None:
        rank_zero_info(f"{type(self).__name__}: tokenising, once; the blocks are kept on disk.")
        self._notes.clear()
        for split in SPLITS:
            stream = tokenise(
                self.texts(split),
                self.tokenizer,
                self.num_proc,
                control_tokens=self.control_tokens,
            )
            blocks = pack(_counted(stream, split), self.max_length)
            write_blocks(blocks, folder / f"{split}.arrow")
        if not len(Blocks(folder / "train.arrow")):
            raise UserError(f"{type(self).__name__} found no text to train on. Give more data.")
        (folder / "notes.json").write_text(json.dumps(self._notes))

    def _announce(self, notes: list[str]) -> None:
        sizes = " + ".join(f"{len(self.blocks[split]):,} {split}" for split in SPLITS)  # type: ignore[arg-type]
        rank_zero_info(f"{type(self).__name__}: {sizes} blocks of {self.length_and_why}")
        for note in notes:
            rank_zero_info(f"{type(self).__name__}: {note}")

    @property
    def length_and_why(self) -> str:
        """Such as `256 tokens`; if the encoder's maximum is different, that too."""
        length, of_encoder = self.max_length, self.encoder_length
        if length == (of_encoder or length):
            return f"{length} tokens"
        return f"{length} tokens (`data.max_length`; `encoder.max_length` is {of_encoder})"

    @property
    def collate(self) -> Callable[[list[Tokens]], dict[str, Tensor]]:
        """Makes a batch of blocks."""
        return partial(collate_blocks, pad_token_id=pad_token_id(self.tokenizer))

    def _loader(self, split: Split) -> DataLoader[Any]:
        dataset = self.blocks[split]
        progress = FitProgress.of(self.trainer) if split == "train" else None
        overfits = bool(getattr(self.trainer, "overfit_batches", 0))
        if isinstance(dataset, StreamedBlocks):
            if overfits:
                raise UserError(
                    "`Trainer(overfit_batches)` cannot be used with a stream. Set "
                    "`streaming=False`, or `Trainer(limit_train_batches=N)` instead."
                )
            # Lightning fetches the first batch before it sets the epoch.
            dataset.set_epoch(progress.epoch if progress else 0)
            return StreamLoader(dataset, self.rank, self.world_size, self.num_workers, progress)
        if overfits:  # Lightning wants the rows in order, and chooses the sampler
            return DataLoader(
                dataset, self.batch_size, num_workers=self.num_workers, collate_fn=self.collate
            )
        shuffle = split == "train"
        sampler = RowBatchSampler(
            dataset, self.batch_size, self.rank, self.world_size, self.seed, shuffle
        )
        collate = self.collate if shuffle else partial(_counting_once, self.collate)
        return ResumableLoader(RowsOf(dataset), sampler, self.num_workers, collate, progress)


def _counting_once(
    collate: Callable[[list[Tokens]], dict[str, Tensor]], blocks: list[Tokens]
) -> dict[str, Tensor]:
    batch = collate(blocks)
    return Repeated(batch) if isinstance(blocks, RepeatedRows) else batch


def _counted(stream: Iterable[Tokens], split: Split) -> Iterator[Tokens]:
    """The stream; a terminal shows the number of tokens so far."""
    bar = tqdm(desc=f"{split} tokens", unit="", unit_scale=True, disable=None, leave=False)
    with bar:
        for tokens in stream:
            bar.update(len(tokens))
            yield tokens


def pad_token_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token that fills a short block; never attended, so any token will do."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in known if token is not None)
