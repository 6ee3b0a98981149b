import pytest

from llm2vec_pl.data import RetrievalTask
from llm2vec_pl.evaluation import STSTask, evaluate_retrieval, evaluate_sts
from llm2vec_pl.evaluation.analysis import plot_scores, scores_by_layer


@pytest.fixture(scope="module")
def tasks(sts_file, retrieval_folder):
    return STSTask.read(sts_file), RetrievalTask.from_folder(retrieval_folder)


@pytest.fixture(scope="module")
def found(bidirectional, tasks):
    return scores_by_layer(bidirectional, *tasks, batch_size=4)


def test_the_last_layers_scores_are_those_of_the_evaluations(found, bidirectional, tasks):
    sts, retrieval = tasks
    try:
        for pooling in ("mean", "last"):
            bidirectional.pooling = pooling
            expected = evaluate_sts(bidirectional, sts)
            assert found["pairs_dev"][pooling][-1] == pytest.approx(expected, abs=0.02)
            expected = evaluate_retrieval(bidirectional, retrieval)["ndcg@10"]
            assert found["numbers"][pooling][-1] == pytest.approx(expected, abs=0.02)
    finally:
        bidirectional.pooling = "mean"


def test_each_layer_and_pooling_has_a_score_of_its_own(found, bidirectional):
    for poolings in found.values():
        assert set(poolings) == {"mean", "weighted_mean", "last", "first"}
        assert {len(scores) for scores in poolings.values()} == {3}
        assert len({tuple(scores) for scores in poolings.values()}) > 1


def test_the_figure_has_a_row_for_each_task_and_a_panel_for_each_encoder(found):
    labels = {"pairs_dev": "Spearman", "numbers": "nDCG@10"}
    figure = plot_scores({"a": found, "b": found}, labels)
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "a", "b"]
    assert figure.axes[0].get_ylabel() == "pairs_dev: Spearman"
    assert figure.axes[2].get_ylabel() == "numbers: nDCG@10"
