"""Callbacks that follow training with two of the analyses: use of the future, and geometry."""

from __future__ import annotations

from functools import partial

from typing_extensions import override

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation import Evaluation, encode_on_all_ranks
from llm2vec_pl.evaluation.analysis.future import future_use
from llm2vec_pl.evaluation.analysis.layer_geometry import Pairs, geometry
from llm2vec_pl.evaluation.analysis.material import read_material
from llm2vec_pl.evaluation.analysis.triples import read_triples


class FutureUse(Evaluation):
    """Whether embeddings use the future, at each validation.

    Logs `future/positive`, `future/negative`, `future/margin` and `future/accuracy` of the last
    layer, as `future_use` defines them. Every rank encodes all triples.

    Args:
        triples: a file with the columns query, positive and negative; this package's if null.
        limit: most triples, evenly spread; all if null.
        batch_size: number of triples that go through the decoder at once.

    Raises:
        UserError: if the file cannot be read.
    """

    def __init__(
        self, triples: str | None = None, limit: int | None = None, batch_size: int = 16
    ) -> None:
        super().__init__("future", batch_size)
        self.triples = read_triples(triples, limit)

    @override
    def measure(self, encoder: Encoder) -> dict[str, float]:
        found = future_use(encoder, self.triples, self.batch_size, every_layer=False)
        return {f"future/{metric}": values[-1] for metric, values in found.items()}


class Geometry(Evaluation):
    """Alignment, uniformity, anisotropy and effective rank, at each validation.

    Logs `geometry/alignment` and so on, of the encoder's embeddings.

    Args:
        sts: a file of pairs with scores, whose most similar pairs are taken; summaries of held-out
            Python documentation with the text below them if null.
        limit: most pairs, evenly spread. The effective rank is at most this.
        batch_size: number of texts that go through the decoder at once on each device.

    Raises:
        UserError: if the file cannot be read.
    """

    def __init__(self, sts: str | None = None, limit: int = 200, batch_size: int = 64) -> None:
        super().__init__("geometry", batch_size)
        self._read = partial(read_material, ["geometry"], sts=sts, limit=limit)
        self._pairs = self._read().pairs if sts is not None else None
        if limit < 2:
            raise UserError(f"`Geometry.limit` expects at least 2, but got {limit}.")

    @property
    def pairs(self) -> Pairs:
        """Texts that belong together; Python's documentation is read on first use."""
        if self._pairs is None:
            self._pairs = self._read().pairs
        return self._pairs

    @override
    def measure(self, encoder: Encoder) -> dict[str, float]:
        sides = (encode_on_all_ranks(encoder, side, "", self.batch_size) for side in self.pairs)
        return {f"geometry/{metric}": value for metric, value in geometry(*sides).items()}
