"""Embeds a corpus by `Trainer.predict`: each rank owns whole files, which no other writes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, IterableDataset
from typing_extensions import override

from llm2vec_pl.distributed import world
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.training import StopSignals, no_process_left, say
from llm2vec_pl.use.bulk.documents import Chunk, Documents
from llm2vec_pl.use.bulk.embedding import Embedding, embed
from llm2vec_pl.use.bulk.parts import PartFolder
from llm2vec_pl.use.bulk.progress import Progress

PATIENCE = timedelta(days=365)
"""How long a rank that is done waits for the others."""


class StoppedError(Exception):
    """A signal has asked the run to stop; its name is the message."""


def trainer_on(accelerator: str, devices: str | int, num_nodes: int) -> Trainer:
    """Lightning's Trainer on these devices, which knows this process's rank.

    Raises:
        UserError: if there are no such devices.
    """
    try:
        return Trainer(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (ValueError, MisconfigurationException) as error:
        raise UserError(
            f'`accelerator="{accelerator}"` and `devices="{devices}"` cannot be used: {error}'
        ) from error


def predict(
    trainer: Trainer, encoder: Encoder, documents: Documents, folder: PartFolder, how: Embedding
) -> float:
    """Writes the files that the folder lacks.

    Args:
        trainer: of `trainer_on`.
        encoder: embeds the documents.
        documents: the corpus.
        folder: where the files go.
        how: what becomes of the embeddings.

    Returns:
        Rows per second of all devices.

    Raises:
        StoppedError: after SIGINT or SIGTERM.
        UserError: if a row cannot be used or a file cannot be written.
    """
    module = EmbedDocuments(encoder, documents, folder, how)
    with no_process_left(trainer):
        try:
            trainer.predict(module, return_predictions=False)
        finally:
            module.signals.leave()
    return module.progress.rate


class EmbedDocuments(LightningModule):
    """Of R ranks, rank r embeds the chunks r, r + R, r + 2R, … that have no file yet.

    A batch is a chunk. Padding a sampler's indices to a multiple of the ranks, as Lightning does
    for a data set with a length, would embed rows twice.
    """

    def __init__(
        self, encoder: Encoder, documents: Documents, folder: PartFolder, how: Embedding
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.documents, self.folder, self.how = documents, folder, how
        self.signals = StopSignals()
        self.there = folder.whole()

    @override
    def predict_dataloader(self) -> DataLoader:
        return DataLoader(_OwnChunks(self.documents, self.there), batch_size=None)

    @override
    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return batch  # texts stay where they are

    @override
    def on_predict_start(self) -> None:
        rank, ranks = world()
        self.signals.watch()
        # Of its own: the default group gives up after half an hour.
        self.group = dist.new_group(backend="gloo", timeout=PATIENCE) if ranks > 1 else None
        done = sum(self.there.values())
        count = self.documents.corpus.count if rank == 0 else lambda: None
        self.progress = Progress(done, count, ranks, write=None if rank == 0 else _nothing)

    @override
    def predict_step(self, chunk: Chunk, batch_idx: int) -> int:
        texts = [document.text for document in chunk.documents]
        embeddings = embed(self.encoder, texts, self.how, self._after_a_batch)
        self.folder.write(chunk, embeddings, self.documents.columns.keep)
        for line in chunk.notes:
            say(line)
        return chunk.number

    @override
    def on_predict_end(self) -> None:
        self.progress.close()
        if self.group is None:
            return
        waiting = dist.barrier(group=self.group, async_op=True)
        while not waiting.is_completed():  # so that a signal is heard meanwhile
            self._stop_if_asked()
            time.sleep(0.05)
        try:
            waiting.wait()
        except RuntimeError as error:
            raise UserError(
                "Another process of this run has ended before its files were done. The files that "
                "are there are whole: give the same command again to go on."
            ) from error

    def _after_a_batch(self, rows: int) -> None:
        self.progress.advance(rows)
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.signals.received is not None:
            self.progress.close()
            raise StoppedError(self.signals.received.name)


class _OwnChunks(IterableDataset):
    """The chunks of a rank; those that have a file are passed over."""

    def __init__(self, documents: Documents, there: dict[int, int]) -> None:
        self.documents, self.there = documents, there

    def __iter__(self) -> Iterator[Chunk]:
        rank, ranks = world()
        return self.documents.chunks(lambda k: k % ranks == rank and k not in self.there)


def _nothing(line: str) -> None:
    pass
