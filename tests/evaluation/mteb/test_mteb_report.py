"""The table of results."""

from types import SimpleNamespace

import pytest

from llm2vec_pl.evaluation.mteb import chosen_tasks, evaluate_tasks, local_tasks, results_in
from llm2vec_pl.evaluation.mteb.report import paper_columns, print_results, with_means


def tasks(**types):
    return {
        name: SimpleNamespace(metadata=SimpleNamespace(type=kind)) for name, kind in types.items()
    }


def test_a_category_has_its_mean_where_no_task_is_missing():
    types = {"a": "STS", "b": "STS", "c": "Retrieval"}
    rows = with_means({"x": {"a": 10.0, "b": 20.0, "c": 60.0}, "y": {"a": 1.0, "c": 3.0}}, types)
    assert rows["x"] == {
        **{"a": 10, "b": 20, "c": 60},
        **{"STS (2)": 15, "all (3)": 30},
    }
    assert rows["y"] == {"a": 1, "c": 3}


def test_the_papers_numbers_stand_beside_its_tasks():
    columns = paper_columns({"SciFact": "Retrieval", "NFCorpus": "Retrieval", "mine": "STS"})
    assert columns["paper: Mistral-7B supervised"] == {
        "SciFact": 78.86,
        "NFCorpus": 39.33,
        "Retrieval (2)": pytest.approx((78.86 + 39.33) / 2),
    }
    assert not any("LLaMA-3" in name for name in columns)


def test_tasks_that_the_paper_lacks_have_no_column():
    assert paper_columns({"mine": "STS"}) == {}


def test_all_56_tasks_have_the_papers_own_means():
    types = {name: task.metadata.type for name, task in chosen_tasks(["eng-v1"]).items()}
    columns = paper_columns(types)
    assert columns["paper: Meta-LLaMA-3-8B supervised"]["all (56)"] == 65.01
    assert columns["paper: Mistral-7B unsupervised"]["Retrieval (15)"] == 38.05
    assert len(columns) == 8


def test_the_table_is_printed_and_written_as_markdown(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    known = tasks(STSBenchmark="STS", SciFact="Retrieval")
    print_results({"mine": {"STSBenchmark": 12.345, "SciFact": 50.0}}, known, tmp_path)
    printed = capsys.readouterr().out
    for words in ("12.35", "88.65", "all (2)", "measured with MTEB 1", "Wrote "):
        assert words in printed
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0].startswith("| task | mine | paper: S-LLaMA-1.3B unsupervised |")
    assert lines[2].startswith("| SciFact | 50.00 | 38.31 |")  # in the paper's order
    assert lines[3].startswith("| STSBenchmark | 12.35 | 73.36 |")


def test_models_are_told_apart_and_a_model_without_these_tasks_is_left_out(
    model, local_data, tmp_path
):
    chosen = chosen_tasks(["pairs"], local_tasks(local_data))
    evaluate_tasks(model, chosen, tmp_path, report=str)
    changed = {"revision": "2"}
    model.mteb_model_meta = model.mteb_model_meta.model_copy(update=changed)
    evaluate_tasks(model, chosen, tmp_path, report=str)
    assert list(results_in(tmp_path, ["pairs"])) == ["counts", "counts 2"]
    (tmp_path / "results" / "local__counts" / "2" / "pairs.json").write_text('{"half')
    assert list(results_in(tmp_path, ["pairs"])) == ["counts"]
    assert results_in(tmp_path, ["topics"]) == {}
