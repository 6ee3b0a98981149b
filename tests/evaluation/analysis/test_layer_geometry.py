import pytest
import torch
from evaluation_texts import TEXTS

from llm2vec_pl.evaluation import alignment, uniformity
from llm2vec_pl.evaluation.analysis import geometry_by_layer, plot_geometry
from llm2vec_pl.evaluation.analysis.layer_geometry import METRICS, geometry

PAIRS = TEXTS[:5], TEXTS[5:]


def test_the_last_layers_is_the_geometry_of_the_embeddings(bidirectional):
    found = geometry_by_layer(bidirectional, PAIRS, batch_size=2)
    expected = geometry(*(bidirectional.encode(side) for side in PAIRS))
    for metric in METRICS:
        assert len(found[metric]) == bidirectional.config.num_hidden_layers + 1
        assert found[metric][-1] == pytest.approx(expected[metric], abs=1e-3)


def test_pairs_are_not_counted_as_random_ones():
    side = torch.eye(4)  # orthogonal texts, each equal to its partner
    found = geometry(side, side)
    assert found["alignment"] == 0
    assert found["anisotropy"] == pytest.approx(0, abs=1e-6)
    assert found["effective_rank"] == pytest.approx(4)


def test_uniformity_is_the_mean_of_the_sides_as_in_evaluate():
    first, second = torch.randn(20, 8), torch.randn(20, 8) + 1
    found = geometry(first, second)
    assert found["alignment"] == pytest.approx(alignment(first, second).item())
    both = (uniformity(first) + uniformity(second)) / 2
    assert found["uniformity"] == pytest.approx(both.item())


def test_the_figure_has_a_panel_for_each_metric(bidirectional):
    figure = plot_geometry({"both": geometry_by_layer(bidirectional, PAIRS)}, pairs=5)
    assert [axis.get_title() for axis in figure.axes] == list(METRICS.values())
    assert "5 pairs" in figure.get_suptitle()
