import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.retrieval import retrieval_normalized_dcg, retrieval_recall

from llm2vec_pl.evaluation.retrieval import RetrievalTask, evaluate_retrieval, ndcg, rank, recall


@given(st.lists(st.integers(0, 3), min_size=2, max_size=30).filter(any), st.randoms())
def test_ndcg_and_recall_are_those_of_torchmetrics(gains, random):
    names = [str(i) for i in range(len(gains))]
    scores = torch.tensor(random.sample(range(100), len(gains)), dtype=torch.float)
    ranking = [names[i] for i in scores.argsort(descending=True)]
    relevant = dict(zip(names, gains, strict=True))
    target = torch.tensor(gains)
    expected = retrieval_normalized_dcg(scores, target, top_k=10).item()
    assert ndcg(ranking[:10], relevant) == pytest.approx(expected, abs=1e-5)
    expected = retrieval_recall(scores, target > 0, top_k=1).item()
    assert recall(ranking, relevant, depth=1) == pytest.approx(expected, abs=1e-5)


def test_the_nearest_document_comes_first():
    documents = torch.eye(3)
    queries = torch.tensor([[0.1, 0.9, 0.5], [0.0, 0.2, 1.0]])
    assert rank(queries, documents, ["a", "b", "c"]) == [["b", "c", "a"], ["c", "b", "a"]]


class Lengths:
    """Embeds a text by its length, so that texts of one length find each other."""

    def encode(self, texts, batch_size):
        return torch.nn.functional.one_hot(torch.tensor([len(t) for t in texts]), 20).float()


def test_a_task_is_solved_where_queries_are_nearest_to_their_documents():
    task = RetrievalTask(
        "lengths",
        queries={"q1": "aa", "q2": "bbbb"},
        corpus={"d1": "cc", "d2": "dddd", "d3": "e"},
        relevant={"q1": {"d1": 1}, "q2": {"d2": 1}},
    )
    assert evaluate_retrieval(Lengths(), task) == {"ndcg@10": 1.0, "recall@1": 1.0}
    wrong = RetrievalTask("wrong", task.queries, task.corpus, {"q1": {"d1": 1}, "q2": {"d3": 1}})
    assert evaluate_retrieval(Lengths(), wrong)["recall@1"] == 0.5
