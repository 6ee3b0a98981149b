"""The five analyses in the form in which `analyse` runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.analysis.attention import attention_use, plot_attention, uniform_share
from llm2vec_pl.evaluation.analysis.future import future_use, plot_future
from llm2vec_pl.evaluation.analysis.layer_geometry import geometry_by_layer, plot_geometry
from llm2vec_pl.evaluation.analysis.layer_scores import plot_scores, scores_by_layer
from llm2vec_pl.evaluation.analysis.material import TEXTS, Material
from llm2vec_pl.evaluation.analysis.similarity import (
    plot_similarity,
    state_similarity,
    states_of,
)
from llm2vec_pl.evaluation.analysis.states import token_rows
from llm2vec_pl.evaluation.analysis.triples import shared_words_accuracy

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from llm2vec_pl.evaluation import Rows


class Analysis:
    """What is measured of each encoder, and how it is shown.

    Args:
        material: what it looks at.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    attention: ClassVar[str | None] = None  # with which the encoder has to be opened

    def __init__(self, material: Material) -> None:
        self.material = material

    @property
    def note(self) -> str:
        """What was looked at, in a line."""
        raise NotImplementedError

    def measure(self, encoder: Encoder) -> Any:
        """What is found in an encoder; None if there is nothing to show."""
        raise NotImplementedError

    def table(self, found: dict[str, Any]) -> Rows:
        """A few numbers of what was found: by default a row for each encoder, of its last layer."""
        return {
            name: {metric: values[-1] for metric, values in result.items()}
            for name, result in found.items()
        }

    def plot(self, found: dict[str, Any]) -> Figure:
        """The figure of all encoders."""
        raise NotImplementedError

    def plain(self, found: dict[str, Any]) -> dict[str, Any]:
        """What was found, for JSON."""
        return found


class Future(Analysis):
    """`future_use`."""

    name = "future"
    title = "Does an embedding use the future? Beginnings alone are pooled"

    @property
    @override
    def note(self) -> str:
        triples = self.material.triples
        return (
            f"{len(triples)} triples, last layer. Chance is 0.5 ± {0.5 / len(triples) ** 0.5:.2f}; "
            f"counting shared words gives {shared_words_accuracy(triples):.2f}."
        )

    @override
    def measure(self, encoder: Encoder) -> Any:
        return future_use(encoder, self.material.triples)

    @override
    def plot(self, found: dict[str, Any]) -> Figure:
        return plot_future(found, len(self.material.triples))


class Similarity(Analysis):
    """`state_similarity` of each encoder with the first."""

    name = "similarity"
    title = "Cosine of hidden states with those of the first encoder"

    def __init__(self, material: Material) -> None:
        super().__init__(material)
        self.rows: Tensor | None = None
        self.reference: Tensor | None = None
        self.reference_name = "causal"

    @property
    @override
    def note(self) -> str:
        count = 0 if self.rows is None else len(self.rows)
        return (
            f"{count} texts of {self.material.length} tokens, mean over positions. "
            "Chance: with the state of another text at the same position, mean over layers."
        )

    @override
    def measure(self, encoder: Encoder) -> Any:
        rows = token_rows(encoder, self.material.texts, self.material.length, TEXTS)
        if self.reference is None or self.rows is None:
            self.rows, self.reference = rows, states_of(encoder, rows)
            return None
        if not rows.equal(self.rows):
            raise UserError(
                "`analyses`: similarity compares the states of the same tokens, but "
                f"{encoder.source.name} turns the texts into others than the decoder does: it has "
                "another tokenizer or template. Leave out similarity, or this encoder."
            )
        return state_similarity(self.reference, states_of(encoder, rows))

    @override
    def table(self, found: dict[str, Any]) -> Rows:
        return {name: self._row(result) for name, result in found.items()}

    def _row(self, result: dict[str, Tensor]) -> dict[str, float]:
        by_layer = result["cosine"].mean(dim=1)
        last = len(by_layer) - 1
        places = dict.fromkeys(max(1, round(last * part / 4)) for part in range(5))
        row = {f"layer {i}": by_layer[i].item() for i in places}
        return {**row, "mean": by_layer.mean().item(), "chance": result["chance"].mean().item()}

    @override
    def plot(self, found: dict[str, Any]) -> Figure:
        assert self.rows is not None
        return plot_similarity(found, self.reference_name, len(self.rows))

    @override
    def plain(self, found: dict[str, Any]) -> dict[str, Any]:
        return {
            name: {
                part: values.double().round(decimals=4).tolist() for part, values in each.items()
            }
            for name, each in found.items()
        }


class Geometry(Analysis):
    """`geometry_by_layer`."""

    name = "geometry"
    title = "Geometry of the embeddings"

    @property
    @override
    def note(self) -> str:
        return (
            f"{len(self.material.pairs[0])} pairs of texts, last layer; "
            "low alignment, uniformity and anisotropy are good."
        )

    @override
    def measure(self, encoder: Encoder) -> Any:
        return geometry_by_layer(encoder, self.material.pairs)

    @override
    def plot(self, found: dict[str, Any]) -> Figure:
        return plot_geometry(found, len(self.material.pairs[0]))


class Layers(Analysis):
    """`scores_by_layer`."""

    name = "layers"
    title = "Scores by pooling, of the last layer and of the best"

    @property
    @override
    def note(self) -> str:
        return "; ".join(f"{task}: {label}" for task, label in self._labels().items())

    def _labels(self) -> dict[str, str]:
        labels = {}
        if sts := self.material.sts:
            labels[sts.name] = "Spearman"
        if retrieval := self.material.retrieval:
            labels[retrieval.name] = "nDCG@10"
        return labels

    @override
    def measure(self, encoder: Encoder) -> Any:
        return scores_by_layer(encoder, self.material.sts, self.material.retrieval)

    @override
    def table(self, found: dict[str, Any]) -> Rows:
        rows: Rows = {}
        for name, tasks in found.items():
            for task, poolings in tasks.items():
                for pooling, scores in poolings.items():
                    row = rows.setdefault(f"{name}, {pooling}", {})
                    row |= {f"{task}/last": scores[-1], f"{task}/best": max(scores)}
        return rows

    @override
    def plot(self, found: dict[str, Any]) -> Figure:
        return plot_scores(found, self._labels())


class Attention(Analysis):
    """`attention_use`."""

    name = "attention"
    title = "Where attention goes: shares of its weight"
    attention = "eager"

    def __init__(self, material: Material) -> None:
        super().__init__(material)
        self.texts = 0

    @property
    @override
    def note(self) -> str:
        length = self.material.length
        return (
            f"{self.texts} texts of {length} tokens, mean over layers, heads and tokens. "
            f"Uniform attention gives later tokens {uniform_share(length):.3f}."
        )

    @override
    def measure(self, encoder: Encoder) -> Any:
        rows = token_rows(encoder, self.material.texts, self.material.length, TEXTS)
        self.texts = len(rows)
        return attention_use(encoder, rows)

    @override
    def table(self, found: dict[str, Any]) -> Rows:
        return {
            name: {
                **{part: sum(shares) / len(shares) for part, shares in result.items()},
                "later, most in a layer": max(result["later"]),
            }
            for name, result in found.items()
        }

    @override
    def plot(self, found: dict[str, Any]) -> Figure:
        return plot_attention(found, self.material.length)


ANALYSES: dict[str, type[Analysis]] = {
    kind.name: kind for kind in (Future, Similarity, Geometry, Layers, Attention)
}
"""By name, in the order in which they are run by default."""
