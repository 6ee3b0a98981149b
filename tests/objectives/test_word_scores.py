import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2
from sklearn.metrics import precision_score as micro_precision
from torchmetrics.classification import MulticlassAccuracy

from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives.word_scores import WordScores

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
tags = st.sampled_from(LABELS)
sentence = st.lists(st.tuples(tags, tags), min_size=1, max_size=8)


def scores_of(has_spans, *batches):
    scores = WordScores(has_spans)
    for predicted, true in batches:
        scores.update(predicted, true, torch.ones(1))
    return {name: float(value) for name, value in scores.compute().items()}


@settings(max_examples=60, deadline=None)
@given(st.lists(sentence, min_size=2, max_size=6))
def test_spans_count_as_for_seqeval_in_its_strict_mode(sentences):
    predicted, true = ([[pair[i] for pair in s] for s in sentences] for i in (0, 1))
    found = scores_of(True, (predicted[:1], true[:1]), (predicted[1:], true[1:]))
    strict = {"mode": "strict", "scheme": IOB2, "zero_division": 0}
    assert found["f1"] == pytest.approx(f1_score(true, predicted, **strict))
    assert found["precision"] == pytest.approx(precision_score(true, predicted, **strict))
    assert found["recall"] == pytest.approx(recall_score(true, predicted, **strict))


@settings(max_examples=60, deadline=None)
@given(st.lists(sentence, min_size=1, max_size=6))
def test_accuracy_is_torchmetrics_and_micro_precision_that_of_the_reference(sentences):
    predicted, true = ([[pair[i] for pair in s] for s in sentences] for i in (0, 1))
    found = scores_of(False, (predicted, true))
    flat = [[tag for tags in side for tag in tags] for side in (predicted, true)]
    numbers = [torch.tensor([LABELS.index(tag) for tag in side]) for side in flat]
    accuracy = MulticlassAccuracy(len(LABELS), average="micro")(*numbers)
    assert found["accuracy"] == pytest.approx(float(accuracy))
    expected = micro_precision(flat[1], flat[0], average="micro")  # run_word_task's own call
    assert found["micro_precision"] == pytest.approx(expected)


def test_a_word_without_a_prediction_is_wrong():
    found = scores_of(True, ([["B-PER", None, "O", None]], [["B-PER", "I-PER", "O", "O"]]))
    assert found["accuracy"] == 0.5
    assert found["micro_precision"] == 1.0  # the reference leaves these words out
    assert found["f1"] == 0.0


def test_a_span_that_begins_with_i_is_none():
    found = scores_of(True, ([["I-PER", "O"]], [["B-PER", "O"]]))
    assert (found["f1"], found["precision"], found["recall"]) == (0.0, 0.0, 0.0)


def test_nothing_predicted_is_zero_and_no_error():
    found = scores_of(True, ([["O"]], [["O"]]))
    assert found["f1"] == 0.0
    assert found["accuracy"] == 1.0


def test_without_seqeval_spans_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "seqeval", None)
    monkeypatch.setitem(sys.modules, "seqeval.scheme", None)
    WordScores(has_spans=False)
    with pytest.raises(UserError, match=r'pip install "llm2vec_pl\[words\]"'):
        WordScores(has_spans=True)
