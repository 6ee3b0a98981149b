import json

import pytest
import torch

from llm2vec_pl.evaluation import (
    RetrievalTask,
    STSTask,
    alignment,
    evaluate,
    evaluate_retrieval,
    evaluate_sts,
    uniformity,
)

TASK = RetrievalTask(
    "t",
    queries={"q1": "a", "q2": "bbb"},
    corpus={"d1": "cc", "d2": "dddd", "d3": "eeeeee"},
    relevant={"q1": {"d1": 1, "d3": 0, "gone": 1}, "q2": {"d2": 2, "d3": 1}},
)
PAIRS = STSTask("pairs", ["a", "a", "a"], ["a", "aaa", "aaaaaa"], [5.0, 4.0, 1.0])


class Lengths(torch.nn.Linear):
    """Embeds a text by its length as an angle."""

    def __init__(self):
        super().__init__(1, 1)

    def encode(self, texts, instruction="", batch_size=32):
        angles = torch.tensor([float(len(instruction + text)) for text in texts]) / 10
        return 3 * torch.stack([angles.cos(), angles.sin()], dim=1)


def test_the_row_holds_retrieval_geometry_and_sts():
    encoder = Lengths()
    row = evaluate(encoder, TASK, PAIRS)
    assert row.items() >= evaluate_retrieval(encoder, TASK).items()
    queries = encoder.encode(["a", "bbb", "bbb"])
    answers = encoder.encode(["cc", "dddd", "eeeeee"])
    assert row["alignment"] == pytest.approx(alignment(queries, answers).item())
    spread = uniformity(queries[:2]) + uniformity(encoder.encode(list(TASK.corpus.values())))
    assert row["uniformity"] == pytest.approx(spread.item() / 2)
    assert row["pairs"] == evaluate_sts(encoder, PAIRS) == 1.0


def test_sts_may_be_a_path_and_may_be_left_out(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "b" * i, "score": i} for i in range(1, 4)]
    (tmp_path / "stsb_dev.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert evaluate(Lengths(), TASK, str(tmp_path / "stsb_dev.jsonl"))["stsb_dev"] == -1.0
    assert "stsb_dev" not in evaluate(Lengths(), TASK)


def test_instructions_reach_their_texts():
    plain = evaluate(Lengths(), TASK)
    assert evaluate(Lengths(), TASK, query_instruction="12345")["alignment"] > plain["alignment"]
    both = evaluate(Lengths(), TASK, query_instruction="12", document_instruction="12")
    assert both["alignment"] == pytest.approx(plain["alignment"])


def test_the_default_is_pythons_documentation(monkeypatch):
    class Docs:
        def retrieval(self):
            return TASK

    monkeypatch.setattr("llm2vec_pl.data.PythonDocs", Docs)
    assert evaluate(Lengths()) == evaluate(Lengths(), TASK)
