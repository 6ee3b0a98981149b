"""Several data modules as one."""

from __future__ import annotations

from lightning.pytorch import LightningDataModule
from torch.utils.data import ConcatDataset, IterableDataset
from typing_extensions import override

from llm2vec_pl.data.files import SPLITS
from llm2vec_pl.data.text_blocks import TextBlocks
from llm2vec_pl.errors import UserError


class Mixture(TextBlocks):
    """The blocks of several data modules in one shuffled epoch, with all their validation blocks.

    Each part reads, tokenises and caches its texts as it does alone; its own batch size, workers
    and seed are not used.

    Args:
        parts: data modules of text blocks, such as `Wikipedia` and `PythonDocs`.
        batch_size: blocks per batch and device.
        num_workers: processes that load batches.
        seed: seed of the order of the blocks, which is a function of seed and epoch.
    """

    def __init__(
        self,
        parts: list[LightningDataModule],
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        self.parts = [_as_text_blocks(part) for part in parts]
        if not parts:
            raise UserError("`parts` expects at least one data module, but got none.")
        super().__init__(None, batch_size, 1, num_workers, seed)

    @property
    @override
    def max_length(self) -> int:
        # The parts have no encoder of their own before they are set up.
        return max(part._max_length or self.encoder_length or 512 for part in self.parts)

    @override
    def prepare_data(self) -> None:
        for part in self._parts_with_tokenizer():
            part.prepare_data()

    @override
    def setup(self, stage: str | None = None) -> None:
        parts = self._parts_with_tokenizer()
        for part in parts:
            part.setup(stage)
            if any(isinstance(part.blocks[split], IterableDataset) for split in SPLITS):
                raise UserError(
                    "`parts` cannot be mixed while streaming: set `streaming=False` in each."
                )
        self.blocks = {
            split: ConcatDataset([part.blocks[split] for part in parts]) for split in SPLITS
        }

    def _parts_with_tokenizer(self) -> list[TextBlocks]:
        return [part.attach(self.attached) for part in self.parts]


def _as_text_blocks(part: LightningDataModule) -> TextBlocks:
    if not isinstance(part, TextBlocks):
        raise UserError(
            f"`parts` expects data modules of text blocks, but got {type(part).__name__}."
        )
    return part
