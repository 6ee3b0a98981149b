"""Late interaction: one vector for each token, and texts are compared token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from llm2vec_pl.encoder import (
    Encoder,
    MultiVectorEncoder,
    TokenBatch,
    max_sim,
    new_projection,
    read_projection,
    save_projection,
    token_vectors,
)
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives.chunks import embed_rows
from llm2vec_pl.objectives.contrastive import Contrastive, ContrastiveBatch
from llm2vec_pl.objectives.gathered_texts import Texts


class LateInteraction(Contrastive):
    """Contrastive learning of a vector for each token, compared by MaxSim (ColBERT).

    A linear layer maps the hidden states of a text's own tokens to short vectors. A query scores
    with a document as the mean over the query's tokens of the highest cosine with any of the
    document's, so that `temperature` and `margin` mean what they do for the cosine of two texts.
    Batches, negatives and chunks are those of `Contrastive`. Queries and documents are both cut at
    the encoder's `max_length`; a query is not filled up with mask tokens. The layer is saved with
    the encoder, for `MultiVectorEncoder.from_pretrained`.

    Args:
        encoder: the encoder to train.
        projection_dim: size of a token's vector. A layer that the encoder's folder has already is
            trained further.
        options: the other arguments of `Contrastive`.

    Raises:
        UserError: if an argument is out of range, or does not go with late interaction.
    """

    opened_by = "MultiVectorEncoder"

    def __init__(self, encoder: Encoder, projection_dim: int = 128, **options: Any) -> None:
        if projection_dim < 1:
            raise UserError(f"`projection_dim` is at least 1, but got {projection_dim}.")
        super().__init__(encoder, **options)
        if self.spread_out_weight:
            raise UserError(
                "`spread_out_weight` is for one vector a text, and late interaction has many. "
                "Leave it at 0."
            )
        self.dims = options.get("matryoshka_dims") or [projection_dim]
        if max(self.dims) > projection_dim:
            raise UserError(
                f"`matryoshka_dims` lie between 1 and the size of a vector, {projection_dim}, but "
                f"got {self.dims}."
            )
        known = read_projection(encoder.source.folder)
        if known is not None and known.out_features != projection_dim:
            raise UserError(
                f"`projection_dim` is {projection_dim}, but {encoder.source.folder} has a "
                f"projection to {known.out_features} already. Set "
                f"`projection_dim={known.out_features}`."
            )
        self.token_projection = known or new_projection(encoder.embedding_size, projection_dim)

    def score(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """MaxSim of each query with each candidate, (R, L, D) and (C, M, D) -> (R, C)."""
        return max_sim(queries, candidates)

    def embed(self, batch: ContrastiveBatch) -> Texts:
        """The vectors of all tokens, in one pass through the decoder; 0 where there is padding."""
        texts = super().embed(batch)
        # All were padded to the longest document.
        longest = batch["query"]["input_ids"].shape[1]
        return texts._replace(queries=texts.queries[:, :longest])

    def embed_rows(self, batch: TokenBatch) -> Tensor:
        """The vectors of a token batch, (B, L, D), with the activations of one chunk at a time."""
        return embed_rows(self._vectors, batch, self.chunk_size)

    @property
    def retriever(self) -> MultiVectorEncoder:
        """What `RetrievalEvaluation` measures in place of the encoder."""
        return MultiVectorEncoder(self.encoder, self.token_projection)

    def save_beside(self, folder: Path) -> None:
        """Writes the projection into the encoder's folder."""
        save_projection(self.token_projection.weight, folder)

    def _vectors(self, batch: TokenBatch) -> Tensor:
        return token_vectors(self.encoder, self.token_projection, batch)
