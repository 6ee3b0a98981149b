import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from llm2vec_pl.evaluation.nearest import Nearest
from llm2vec_pl.evaluation.ranking import ndcg, ranking_metrics, recall, reciprocal_rank

pytrec_eval = pytest.importorskip("pytrec_eval", reason="needs pytrec-eval-terrier")
MEASURES = {
    "ndcg@10": "ndcg_cut_10",
    "recall@1": "recall_1",
    "recall@10": "recall_10",
    "recall@100": "recall_100",
}


@st.composite
def judged_scores(draw):
    """Scores with many ties, and graded gains, of up to 130 documents; some are not retrieved."""
    size = draw(st.integers(1, 130))
    scores = draw(st.lists(st.integers(0, draw(st.integers(1, 40))), min_size=size, max_size=size))
    gains = draw(st.lists(st.integers(-1, 3), min_size=size, max_size=size))
    missing = draw(st.lists(st.integers(0, 3), max_size=3))
    return scores, gains, missing


@given(judged_scores())
@example(([1, 1, 1], [0, 0, 2], []))
@example(([3, 2, 1], [1, 0, 2], [3, 1]))
def test_metrics_are_those_of_trec_eval_also_with_ties_and_missing_documents(case):
    scores, gains, missing = case
    # trec_eval breaks ties by the name, the last first; ours by the place in the corpus.
    names = [f"d{len(scores) - i:03}" for i in range(len(scores))]
    judged = dict(zip(names, gains, strict=True)) | {f"x{i}": g for i, g in enumerate(missing)}
    if max(judged.values()) <= 0:
        return
    # On the unit circle, angles in the order of the scores: equal scores are equal cosines.
    angles = torch.tensor([(40 - score) / 40 for score in scores], dtype=torch.float32)
    documents = torch.stack([angles.cos(), angles.sin()], dim=1)
    nearest = Nearest(torch.tensor([[1.0, 0.0]]), depth=100)
    for chunk in documents.split(17):
        nearest.add(chunk)
    ranking = [names[i] for i in nearest.indices[0].tolist()]
    ours = ranking_metrics([ranking], [judged])

    run = {"q": dict(zip(names, map(float, scores), strict=True))}
    evaluator = pytrec_eval.RelevanceEvaluator({"q": judged}, set(MEASURES.values()))
    expected = evaluator.evaluate(run)["q"]
    for name, measure in MEASURES.items():
        assert ours[name] == pytest.approx(expected[measure], abs=1e-6), name
    first_ten = {"q": {name: run["q"][name] for name in ranking[:10]}}
    evaluator = pytrec_eval.RelevanceEvaluator({"q": judged}, {"recip_rank"})
    expected = evaluator.evaluate(first_ten)["q"]["recip_rank"]
    assert ours["mrr@10"] == pytest.approx(expected, abs=1e-6)


def test_gains_are_linear_and_the_first_place_is_not_discounted():
    gains = {"a": 3, "b": 1}
    assert ndcg(["a", "b"], gains) == 1.0
    assert ndcg(["b", "a"], gains) == pytest.approx((1 + 3 * 0.63093) / (3 + 0.63093), abs=1e-5)


def test_a_gain_of_0_is_not_relevant():
    assert recall(["a", "b"], {"a": 0, "b": 1}, depth=1) == 0.0
    assert reciprocal_rank(["a", "b"], {"a": 0, "b": 1}) == 0.5


def test_the_eleventh_place_counts_neither_for_ndcg_nor_for_mrr():
    ranking = [str(i) for i in range(11)]
    assert (ndcg(ranking, {"10": 1}), reciprocal_rank(ranking, {"10": 1})) == (0.0, 0.0)
    assert recall(ranking, {"10": 1}, depth=100) == 1.0


def test_metrics_are_means_over_queries():
    metrics = ranking_metrics([["a", "b"], ["a", "b"]], [{"a": 1}, {"b": 1}])
    assert (metrics["recall@1"], metrics["mrr@10"]) == (0.5, 0.75)
