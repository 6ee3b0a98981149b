import json

import pytest

from llm2vec_pl.data.retrieval_task import RetrievalTask
from llm2vec_pl.errors import UserError

CORPUS = [
    {"_id": "d1", "title": "Rivers", "text": "flow to the sea.", "metadata": {}},
    {"_id": "d2", "title": "", "text": " Lakes lie still.\u2028 "},
    {"_id": 3, "text": "Seas are salt."},
    {"_id": "d4", "title": None, "text": ""},
]
QUERIES = [
    {"_id": "q1", "text": "what flows?"},
    {"_id": "q2", "text": "what is salt?"},
    {"_id": "q3", "text": "of the training split"},
    {"_id": "q4", "text": "unanswered"},
]
QRELS = ["query-id\tcorpus-id\tscore", "q1\td1\t2", "q1\td2\t0", "q2\t3\t1", "q4\td1\t0"]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "nature"
    (folder / "qrels").mkdir(parents=True)
    write(folder / "corpus.jsonl", map(json.dumps, CORPUS))
    write(folder / "queries.jsonl", map(json.dumps, QUERIES))
    write(folder / "qrels" / "test.tsv", QRELS)
    return folder


def write(path, lines):
    path.write_text("\n".join(lines) + "\n")


def test_titles_are_joined_to_texts_and_judged_queries_kept(folder):
    task = RetrievalTask.from_folder(folder)
    assert task.name == "nature"
    assert task.corpus == {
        "d1": "Rivers flow to the sea.",
        "d2": "Lakes lie still.",
        "3": "Seas are salt.",
        "d4": "",
    }
    assert task.queries == {"q1": "what flows?", "q2": "what is salt?"}
    assert task.relevant == {"q1": {"d1": 2, "d2": 0}, "q2": {"3": 1}}
    assert task.notes == (
        "nature: 1 queries left out: not judged in this split",
        "nature: 1 queries left out: no relevant document",
    )


def test_other_splits_have_other_queries(folder):
    write(folder / "qrels" / "dev.tsv", ["q3\td2\t1"])  # without a header
    task = RetrievalTask.from_folder(str(folder), split="dev", name="mine")
    assert (task.name, list(task.queries)) == ("mine", ["q3"])


def test_judgements_of_unknown_texts_are_counted(folder):
    write(folder / "qrels" / "test.tsv", [*QRELS, "q1\tgone\t1", "q9\td1\t1"])
    task = RetrievalTask.from_folder(folder)
    assert task.relevant["q1"]["gone"] == 1  # not found, as in trec_eval
    assert "nature: judgements of 1 unknown queries left out" in task.notes
    assert any("1 judged documents are not in the corpus" in note for note in task.notes)


def test_queries_that_are_documents_are_counted(folder):
    write(folder / "queries.jsonl", [*map(json.dumps, QUERIES), '{"_id": "d1", "text": "Rivers"}'])
    write(folder / "qrels" / "test.tsv", [*QRELS, "d1\td2\t1"])
    note = "nature: 1 queries are documents too: each is left out of its own ranking"
    assert note in RetrievalTask.from_folder(folder).notes


def test_a_judgement_twice_is_one(folder):
    write(folder / "qrels" / "test.tsv", [*QRELS, "q1\td1\t2"])
    assert RetrievalTask.from_folder(folder).relevant["q1"] == {"d1": 2, "d2": 0}


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        (
            "corpus.jsonl",
            '{"_id": "d1", "text": "again"}',
            "line 5: the _id 'd1' occurs a second",
        ),
        ("queries.jsonl", '{"_id": "q1", "text": "again"}', "line 5: the _id 'q1' occurs a second"),
        ("corpus.jsonl", '{"_id": "d9"}', "line 5: expected .*'_id' and 'text'.* keys _id"),
        ("corpus.jsonl", '["d9"]', "line 5: expected .*'_id' and 'text'.* keys none"),
        ("corpus.jsonl", '{"_id": "d9", "te', "line 5: broken JSON"),
        ("qrels/test.tsv", "q1 d1 1", "line 6: expected three fields separated by tabs.* got 1"),
        ("qrels/test.tsv", "q1\td1\thigh", "line 6: expected a whole number.*'high'"),
        ("qrels/test.tsv", "q1\td1\t0.5", "line 6: expected a whole number.*'0.5'"),
        ("qrels/test.tsv", "q1\td1\t1", "line 6 judges document 'd1' for query 'q1' a second"),
    ],
)
def test_a_bad_row_is_an_error_with_file_and_line(file, line, message, folder):
    with (folder / file).open("a") as lines:
        lines.write(line + "\n")
    with pytest.raises(UserError, match=f"{file} {message}"):
        RetrievalTask.from_folder(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("corpus.jsonl", "\n", "corpus.jsonl holds no text"),
        ("queries.jsonl", "", "queries.jsonl holds no text"),
        ("qrels/test.tsv", "", "none is left of 0 judged and 4 known"),
        ("qrels/test.tsv", "x\ty\t1\n", "none is left of 1 judged and 4 known.*ids match"),
        ("qrels/test.tsv", "q1\td1\t0\n", "none is left of 1 judged"),
        ("corpus.jsonl", None, r"corpus.jsonl does not exist.* folder with corpus\.jsonl"),
        ("qrels/test.tsv", None, r"test.tsv does not exist.*splits found: none"),
    ],
)
def test_a_folder_without_a_task_is_a_clear_error(file, content, message, folder):
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(UserError, match=message):
        RetrievalTask.from_folder(folder)


def test_a_data_set_of_the_hub_in_mtebs_layout_is_the_same_task(folder, monkeypatch):
    from datasets import Dataset

    rows = [line.split("\t") for line in QRELS[1:]]
    parts = {
        ("corpus", "corpus"): [{"_id": str(r["_id"]), "text": r["text"]} for r in CORPUS[1:]]
        + [{"_id": "d1", "text": CORPUS[0]["text"]}],
        ("queries", "queries"): QUERIES,
        ("default", "test"): [
            {"query-id": q, "corpus-id": d, "score": float(gain)} for q, d, gain in rows
        ],
    }

    def fake(path, subset, split):
        assert path == "mteb/nature"
        return Dataset.from_list(parts[subset, split])

    monkeypatch.setattr("datasets.load_dataset", fake)
    task, local = RetrievalTask.from_hub("mteb/nature"), RetrievalTask.from_folder(folder)
    assert (task.name, task.queries, task.relevant) == ("nature", local.queries, local.relevant)
    assert task.corpus.keys() == local.corpus.keys()
    assert task.notes == local.notes
    with pytest.raises(UserError, match="cannot be loaded from the hub.*'dev'"):
        RetrievalTask.from_hub("mteb/nature", split="dev")
