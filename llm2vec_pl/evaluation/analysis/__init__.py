"""Why the method works: the analyses of LLM2Vec's section 4, and two callbacks that follow them.

The public names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm2vec_pl import lazy_exports

if TYPE_CHECKING:
    from llm2vec_pl.evaluation.analysis.attention import attention_use, plot_attention
    from llm2vec_pl.evaluation.analysis.callbacks import FutureUse, Geometry
    from llm2vec_pl.evaluation.analysis.future import future_use, plot_future
    from llm2vec_pl.evaluation.analysis.kinds import ANALYSES
    from llm2vec_pl.evaluation.analysis.layer_geometry import geometry_by_layer, plot_geometry
    from llm2vec_pl.evaluation.analysis.layer_scores import plot_scores, scores_by_layer
    from llm2vec_pl.evaluation.analysis.material import Material, read_material
    from llm2vec_pl.evaluation.analysis.opening import named_encoders
    from llm2vec_pl.evaluation.analysis.run import analyse, chosen_analyses
    from llm2vec_pl.evaluation.analysis.similarity import (
        plot_similarity,
        state_similarity,
        states_of,
    )
    from llm2vec_pl.evaluation.analysis.states import layer_embeddings, layer_states, token_rows
    from llm2vec_pl.evaluation.analysis.triples import Triple, read_triples

__all__ = [
    "ANALYSES",
    "FutureUse",
    "Geometry",
    "Material",
    "Triple",
    "analyse",
    "attention_use",
    "chosen_analyses",
    "future_use",
    "geometry_by_layer",
    "layer_embeddings",
    "layer_states",
    "named_encoders",
    "plot_attention",
    "plot_future",
    "plot_geometry",
    "plot_scores",
    "plot_similarity",
    "read_material",
    "read_triples",
    "scores_by_layer",
    "state_similarity",
    "states_of",
    "token_rows",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "ANALYSES": "kinds",
        "FutureUse": "callbacks",
        "Geometry": "callbacks",
        "Material": "material",
        "Triple": "triples",
        "analyse": "run",
        "attention_use": "attention",
        "chosen_analyses": "run",
        "future_use": "future",
        "geometry_by_layer": "layer_geometry",
        "layer_embeddings": "states",
        "layer_states": "states",
        "named_encoders": "opening",
        "plot_attention": "attention",
        "plot_future": "future",
        "plot_geometry": "layer_geometry",
        "plot_scores": "layer_scores",
        "plot_similarity": "similarity",
        "read_material": "material",
        "read_triples": "triples",
        "scores_by_layer": "layer_scores",
        "state_similarity": "similarity",
        "states_of": "similarity",
        "token_rows": "states",
    },
)
