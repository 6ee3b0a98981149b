import json
import runpy
from pathlib import Path

import pytest
import torch

from llm2vec_pl.data import RetrievalTask
from llm2vec_pl.errors import UserError
from llm2vec_pl.training.pipeline import classification, documentation, retrieval, sts
from llm2vec_pl.training.pipeline.measures import Measure, Results, different

RECIPE = Path(__file__).parents[2] / "recipes" / "pipeline.py"


class Lengths(torch.nn.Linear):
    """Embeds a text by its length as an angle."""

    def __init__(self):
        super().__init__(1, 1)

    def encode(self, texts, instruction="", batch_size=32):
        angles = torch.tensor([float(len(instruction + text)) for text in texts]) / 40
        return torch.stack([angles.cos(), angles.sin()], dim=1)


def write_lines(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


@pytest.fixture
def pairs(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "b" * i, "score": -i} for i in range(1, 5)]
    return write_lines(tmp_path / "pairs_test.jsonl", rows)


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "numbers"
    texts = [{"_id": str(i), "text": "a" * (i + 1)} for i in range(9)]
    write_lines(folder / "corpus.jsonl", texts)
    write_lines(folder / "queries.jsonl", [{**row, "_id": f"q{row['_id']}"} for row in texts[:4]])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("\n".join(f"q{i}\t{i}\t1" for i in range(4)))
    return str(folder)


@pytest.fixture
def labelled(tmp_path):
    rows = [
        {"text": ("a" if i % 2 else "bcdefgh" * 5) * (i + 1), "label": i % 2} for i in range(12)
    ]
    write_lines(tmp_path / "halves" / "train.jsonl", rows)
    write_lines(tmp_path / "halves" / "test.jsonl", rows[:6])
    return str(tmp_path / "halves")


def test_pairs_are_measured_under_their_files_name(pairs):
    measure = sts(pairs)
    assert measure.run(Lengths()) == {"pairs_test": pytest.approx(1.0)}
    assert measure.note == ""


def test_each_metric_of_a_folder_has_the_folders_name(beir):
    measure = retrieval(beir)
    metrics = measure.run(Lengths())
    assert metrics["numbers/ndcg@10"] == metrics["numbers/recall@1"] == 1.0
    assert all(name.startswith("numbers/") for name in metrics)
    assert measure.note == ""


def test_a_part_of_the_documents_is_said_to_be_one(beir):
    assert retrieval(beir, 3).note == "numbers: 3 of 4 queries."
    assert retrieval(beir, 3, 5).note == (
        "numbers: 3 of 4 queries and 5 of 9 documents. Fewer documents make an easier task."
    )
    assert retrieval(beir, 3).of != retrieval(beir).of


def test_texts_are_classified_under_the_folders_name(labelled):
    measure = classification(labelled, 4)
    assert 0.5 <= measure.run(Lengths())["halves"] <= 1
    assert measure.note == "halves: 4 of 6 texts."
    assert classification(labelled).note == ""


def test_what_changes_in_a_file_is_part_of_what_was_measured(pairs, beir, labelled, tmp_path):
    built = {
        sts: (pairs, Path(pairs)),
        retrieval: (beir, tmp_path / "numbers" / "corpus.jsonl"),
        classification: (labelled, tmp_path / "halves" / "test.jsonl"),
    }
    for build, (path, file) in built.items():
        was = build(path).of
        assert build(path).of == was
        file.write_text(file.read_text().replace('"a', '"aa', 1))
        assert build(path).of != was


def test_two_measures_of_one_name_are_an_error(pairs, tmp_path):
    other = write_lines(tmp_path / "other" / "pairs_test.jsonl", [])
    Path(other).write_text(Path(pairs).read_text())
    with pytest.raises(UserError, match="Two evaluations are called 'pairs_test'"):
        different([sts(pairs), sts(other)])


def test_results_of_an_earlier_version_are_measured_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "llm2vec_pl.encoder.encoder.Encoder.from_pretrained", lambda *_, **__: Lengths()
    )
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"causal": {"of": {"sts": None}, "metrics": {"ndcg@10": 0.1}}}))
    measure = Measure("docs", {"docs": "x"}, lambda encoder: {"ndcg@10": 0.2})
    assert Results(file).row("causal", "tiny", [measure]) == {"ndcg@10": 0.2}
    assert list(json.loads(file.read_text())["causal"]) == ["docs"]


def test_a_measure_that_fails_leaves_those_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "llm2vec_pl.encoder.encoder.Encoder.from_pretrained", lambda *_, **__: Lengths()
    )
    ran = []

    def first(encoder):
        ran.append(encoder)
        return {"a": 1.0}

    measures = [Measure("a", {}, first), Measure("b", {}, lambda encoder: {"b": 1 / 0})]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            Results(tmp_path / "results.json").row("causal", "tiny", measures)
    assert len(ran) == 1


def test_the_flags_of_the_recipe_name_what_is_measured(pairs, beir, labelled, capsys):
    recipe = runpy.run_path(str(RECIPE), run_name="recipe")

    def asked(*flags):
        return recipe["measures"](recipe["command_line"]().parse_args(flags))

    words = ["--sts", pairs, "--retrieval", beir, "--classification", labelled, "--docs", "false"]
    names = ["pairs_test", "numbers", "halves"]
    assert [measure.name for measure in asked(*words)] == names
    limits = ["--limit_queries", "2", "--limit_documents", "0", "--limit_texts", "4"]
    notes = [measure.note for measure in asked(*words, *limits)]
    assert notes == ["", "numbers: 2 of 4 queries.", "halves: 4 of 6 texts."]
    with pytest.raises(SystemExit):
        asked("--limit_texts", "-1")
    assert "--limit_texts: invalid count value: '-1'" in capsys.readouterr().err


def test_the_documentation_is_measured_by_retrieval_and_geometry(beir, monkeypatch):
    class Docs:
        def source(self):
            return {"packages": ["numbers 1.0"]}

        def retrieval(self):
            return RetrievalTask.from_folder(beir)

    monkeypatch.setattr("llm2vec_pl.data.PythonDocs", Docs)
    measure = documentation()
    assert {"ndcg@10", "recall@1", "alignment", "uniformity"} <= set(measure.run(Lengths()))
    monkeypatch.setattr(Docs, "source", lambda self: {"packages": ["numbers 1.1"]})
    assert documentation().of != measure.of
