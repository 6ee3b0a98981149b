"""What every data module knows about its training: the encoder's tokenizer, the ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningDataModule
from transformers import PreTrainedTokenizerBase

from llm2vec_pl.encoder import TextTokenizer
from llm2vec_pl.errors import UserError

if TYPE_CHECKING:
    from typing_extensions import Self

    from llm2vec_pl.encoder import Encoder


class EncoderData(LightningDataModule):
    """A data module whose texts are tokenised as by the encoder that is being trained."""

    _attached: Encoder | TextTokenizer | PreTrainedTokenizerBase | None = None

    def attach(self, encoder: Encoder | TextTokenizer | PreTrainedTokenizerBase) -> Self:
        """Sets the encoder or its tokenizer, for use without a trainer.

        Returns:
            This data module, for `data.attach(encoder).setup()`.
        """
        self._attached = encoder
        return self

    @property
    def attached(self) -> Any:
        """What was attached, or the encoder of the module being trained.

        Raises:
            UserError: if there is neither.
        """
        if self._attached is not None:
            return self._attached
        module = self.trainer.lightning_module if self.trainer else None
        encoder = getattr(module, "encoder", None)
        if encoder is None:
            raise UserError(
                f"{type(self).__name__} has no tokenizer. Call attach(encoder), "
                "or pass it to a Trainer together with a module that has an encoder."
            )
        return encoder

    @property
    def attached_tokenizer(self) -> Any:
        """The encoder's `tokenize`, or the tokenizer that was attached in its place."""
        attached = self.attached
        is_tokenizer = isinstance(attached, (TextTokenizer, PreTrainedTokenizerBase))
        return attached if is_tokenizer else getattr(attached, "tokenize", attached)

    @property
    def rank(self) -> int:
        """The rank of this process in the training; 0 without a trainer."""
        return self.trainer.global_rank if self.trainer else 0

    @property
    def world_size(self) -> int:
        """The number of processes that train; 1 without a trainer."""
        return self.trainer.world_size if self.trainer else 1
