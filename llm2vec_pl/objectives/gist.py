"""GISTEmbed: a trained encoder says which candidates of a batch are no negatives."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from llm2vec_pl.encoder import Encoder, TokenBatch, send
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives.base import with_token_batches
from llm2vec_pl.objectives.contrastive import Contrastive, ContrastiveBatch
from llm2vec_pl.objectives.teacher import Teacher


class GISTEmbed(Contrastive):
    """Contrastive learning whose false negatives are found by a guide (Solatorio 2024).

    A candidate that the guide finds more similar to a query than the query's own positive, in a
    batch or among hard negatives, is ignored for this query. The guide reads the texts themselves,
    without the encoder's template and instructions, and each text once: its embeddings are kept in
    the cache folder, as those of a teacher of `Distillation` are. As in `Contrastive`, a query is
    compared with positives and negatives, not with the other queries.

    Args:
        encoder: the encoder to train.
        guide: the encoder that is asked; required. A folder or hub name of any encoder (such as
            `runs/supervised`) or of a model of sentence-transformers. It is frozen.
        guide_instruction: written before each text for the guide, such as "query: ".
        guide_batch_size: most texts that the guide embeds at once.
        margin: candidates are ignored above the guide's similarity of the positive minus this.
        options: the other arguments of `Contrastive`.

    Raises:
        UserError: if an argument is missing or out of range.
    """

    reads_texts = True

    def __init__(
        self,
        encoder: Encoder,
        guide: str | None = None,
        guide_instruction: str = "",
        guide_batch_size: int = 64,
        margin: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(encoder, margin=margin, **options)
        if not guide:
            raise UserError(
                "`guide` is missing: name the encoder that finds false negatives, such as "
                "`runs/supervised` or `sentence-transformers/all-MiniLM-L6-v2`."
            )
        if guide_batch_size < 1:
            raise UserError(f"`guide_batch_size` is at least 1 text, but got {guide_batch_size}.")
        self.guide_name = guide
        self.guide_instruction = guide_instruction
        self.guide_batch_size = guide_batch_size
        self.guide: Teacher | None = None

    def configure_model(self) -> None:
        """Opens the guide's cache, and loads the encoder."""
        if self.guide is None:
            self.guide = Teacher(
                self.guide_name, self.guide_instruction, self.guide_batch_size, argument="guide"
            )
        super().configure_model()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """A batch with the guide's embeddings of its texts, ready for the device."""
        return super().on_before_batch_transfer(self.guided(batch), dataloader_idx)

    def guided(self, batch: ContrastiveBatch) -> ContrastiveBatch:
        """A copy of a batch with `guide`, (rows, Dg), in place of `texts` in each token batch.

        Args:
            batch: token batches with their `texts`, a list of strings, on the host.

        Raises:
            UserError: if it does not hold the texts.
        """
        if self.guide is None:
            self.configure_model()
        return with_token_batches(batch, self._asked)  # type: ignore[no-any-return]

    def loss(self, batch: ContrastiveBatch) -> Tensor:
        """As for `Contrastive`, without the candidates that the guide takes for right answers."""
        # If a data module's own hook has replaced the objective's, nobody has asked the guide yet.
        return super().loss(self.guided(batch))

    def notes(self) -> dict[str, Any]:
        """What `Contrastive` notes, and the guide."""
        return {**super().notes(), "guide": self.guide_name}

    def _asked(self, tokens: TokenBatch) -> TokenBatch:
        if "guide" in tokens:
            return {}
        if "texts" not in tokens:
            raise UserError(
                "`guide` reads the texts of a batch, but this data gives tokens only. Use a data "
                "module for contrastive training, such as E5, PythonDocsPairs or "
                "WikipediaSentences; a batch of your own needs the key `texts`, a list of strings, "
                "beside each `input_ids`."
            )
        assert self.guide is not None
        texts = tokens.pop("texts")
        known = self.guide(texts, self.device)
        return {"guide": send(known, tokens["input_ids"].device)}
