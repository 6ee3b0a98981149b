"""MTEB's own evaluation on local files."""

import json

import pytest
from mteb.abstasks import AbsTaskClusteringLegacy
from word_counts import WordCounts

from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation import (
    ClassificationTask,
    RetrievalTask,
    STSTask,
    evaluate_classification,
    evaluate_retrieval,
    evaluate_sts,
)
from llm2vec_pl.evaluation.mteb import (
    Instructions,
    MTEBEncoder,
    chosen_tasks,
    evaluate_tasks,
    local_tasks,
)

NAMES = {
    "pairs": "STS",
    "topic_search": "Retrieval",
    "topic_ranking": "Reranking",
    "topics": "Classification",
    "topic_clusters": "Clustering",
    "same_topic": "PairClassification",
}


@pytest.fixture(scope="module")
def scores(local_data, tmp_path_factory):
    """Of bare texts, as this package's own evaluation has them by default."""
    model = MTEBEncoder(WordCounts(), instructions=Instructions("none"))
    out = tmp_path_factory.mktemp("out")
    return evaluate_tasks(model, local_tasks(local_data), out, report=str)


def test_a_folder_has_a_task_of_each_kind(local_data):
    tasks = local_tasks(local_data)
    assert {name: task.metadata.type for name, task in tasks.items()} == NAMES
    assert list(chosen_tasks(["local"], tasks)) == list(tasks)


def test_each_kind_is_scored_by_mteb(scores):
    assert scores.keys() == NAMES.keys()
    assert scores["topics"] > 0.9
    assert scores["topic_search"] > 0.8
    assert scores["topic_ranking"] == pytest.approx(1)
    assert 0.5 < scores["pairs"] < 1
    assert 0.9 < scores["same_topic"] <= 1
    assert 0.2 < scores["topic_clusters"] <= 1


def test_the_scores_are_those_of_this_package(scores, local_data, counts):
    task = STSTask.read(local_data / "sts" / "pairs.jsonl")
    assert scores["pairs"] == pytest.approx(evaluate_sts(counts, task), abs=1e-3)
    found = evaluate_retrieval(
        counts, RetrievalTask.from_folder(local_data / "retrieval" / "topic_search")
    )
    assert scores["topic_search"] == pytest.approx(found["ndcg@10"], abs=1e-3)
    accuracy = evaluate_classification(
        counts, ClassificationTask.read(local_data / "classification" / "topics")
    )
    assert scores["topics"] == pytest.approx(accuracy, abs=1e-3)


def test_a_task_with_the_name_of_one_of_mteb_has_its_class_and_settings(local_data, tmp_path):
    file = tmp_path / "clustering" / "TwentyNewsgroupsClustering.jsonl"
    file.parent.mkdir()
    file.write_text((local_data / "clustering" / "topic_clusters.jsonl").read_text())
    (task,) = local_tasks(tmp_path).values()
    assert isinstance(task, AbsTaskClusteringLegacy)
    assert task.metadata.prompt == "Identify the topic or theme of the given news articles"
    task.load_data()
    (row,) = task.dataset["default"]["test"]  # one set of texts
    assert len(row["sentences"]) == 36


def test_a_task_in_one_language_of_several_is_the_english_one(local_data, model, tmp_path):
    file = tmp_path / "sts" / "STS17.jsonl"
    file.parent.mkdir()
    file.write_text((local_data / "sts" / "pairs.jsonl").read_text())
    scores = evaluate_tasks(model, local_tasks(tmp_path), tmp_path / "out", report=str)
    (result,) = (tmp_path / "out").rglob("STS17.json")
    (entry,) = json.loads(result.read_text())["scores"]["test"]
    assert entry["hf_subset"] == "en-en"
    assert entry["main_score"] == pytest.approx(scores["STS17"], abs=1e-6)


def test_a_query_that_is_a_document_does_not_find_itself(tmp_path, model):
    folder = tmp_path / "retrieval" / "duplicates"
    folder.mkdir(parents=True)
    rows = [json.dumps({"_id": str(i), "text": f"sea {i // 2}"}) for i in range(6)]
    for name in ("corpus", "queries"):
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    (folder / "qrels").mkdir()
    judged = [f"{i}\t{i ^ 1}\t1" for i in range(6)]
    (folder / "qrels" / "dev.tsv").write_text("\n".join(judged))
    scores = evaluate_tasks(model, local_tasks(tmp_path), tmp_path / "out", report=str)
    assert scores["duplicates"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("sts/a.jsonl", '{"sentence1": "a", "sentence2": "b"}', "line 1 has no column 'score'"),
        ("clustering/a.jsonl", '{"text": "a", "label": "x"}', "at least two labels, but got 1"),
        ("clustering/a.jsonl", '{"text": "", "label": "x"}', "a text in 'text', but got empty"),
        ("clustering/a.csv", "text,topic\na,b", "label"),
        (
            "pair_classification/a.jsonl",
            '{"sentence1": "a", "sentence2": "b", "label": 2}',
            "a.jsonl line 1: expected a label of 0 or 1, but got '2'",
        ),
        (
            "pair_classification/a.jsonl",
            '{"sentence1": "a", "sentence2": "b", "label": 1}',
            r"both labels, 0 and 1, but got \['1'\]",
        ),
        (
            "reranking/a.jsonl",
            '{"query": "a", "positive": [1], "negative": "b"}',
            "line 1: expected texts as candidates, but got not a string",
        ),
        ("reranking/a.jsonl", '{"query": "a", "positive": "b", "negative": []}', "but got none"),
        ("classification/a/test.jsonl", '{"text": "a", "label": "x"}', "train"),
    ],
)
def test_a_mistake_in_a_file_is_an_error_that_names_it(path, content, message, model, tmp_path):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        evaluate_tasks(model, local_tasks(tmp_path), tmp_path / "out", report=str)


def test_a_folder_without_tasks_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"found no task .* such as sts/mine\.jsonl"):
        local_tasks(tmp_path)
    with pytest.raises(UserError, match="expected a folder, but there is none"):
        local_tasks(tmp_path / "gone")


def test_two_tasks_of_one_name_are_an_error(local_data, tmp_path):
    for kind in ("sts", "clustering"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "a.jsonl").write_text("{}")
    with pytest.raises(UserError, match="two tasks are called a"):
        local_tasks(tmp_path)


def test_a_name_of_mteb_in_the_folder_of_another_kind_is_an_error(tmp_path):
    (tmp_path / "sts").mkdir()
    (tmp_path / "sts" / "SciFact.jsonl").write_text("{}")
    with pytest.raises(UserError, match="name of a task of Retrieval. Put it into retrieval/"):
        local_tasks(tmp_path)
