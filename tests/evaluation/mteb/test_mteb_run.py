"""Results: kept, taken up again, and written anew where they are not whole."""

import json

import pytest

from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.mteb import chosen_tasks, evaluate_tasks, local_tasks
from llm2vec_pl.evaluation.mteb.run import result_name


@pytest.fixture
def run(local_data, model, tmp_path):
    """Evaluates on some local tasks; gives the scores and what was reported."""

    def evaluate(*names, folder=local_data):
        lines = []
        tasks = chosen_tasks(names, local_tasks(folder))
        scores = evaluate_tasks(model, tasks, tmp_path, report=lines.append)
        return scores, lines

    return evaluate


def result(folder, name):
    (file,) = folder.rglob(f"{name}.json")
    return file


def test_results_are_files_of_mteb(run, tmp_path):
    scores, _ = run("pairs")
    file = tmp_path / "results" / "local__counts" / "1" / "pairs.json"
    (entry,) = json.loads(file.read_text())["scores"]["test"]
    assert entry["main_score"] == pytest.approx(scores["pairs"], abs=1e-6)
    meta = json.loads(file.with_name("model_meta.json").read_text())
    assert meta["name"] == "local/counts"


def test_a_task_with_results_is_not_evaluated_again(run, counts):
    before, _ = run("pairs")
    asked = len(counts.asked)
    after, lines = run("pairs", "same_topic")
    assert after["pairs"] == pytest.approx(before["pairs"], abs=1e-6)
    assert "evaluated before" in lines[0]
    assert "evaluated before" not in lines[1]
    (instruction,) = {instruction for instruction, _ in counts.asked[asked:]}
    assert instruction.startswith("Retrieve text that are")  # of pairs, and not of STS


@pytest.mark.parametrize("left", [0, 1, 200])
def test_half_written_results_are_written_again(left, run, tmp_path):
    before, _ = run("pairs")
    whole = result(tmp_path, "pairs").read_text()
    result(tmp_path, "pairs").write_text(whole[:left])
    settings = result(tmp_path, "pairs").with_name("run_settings.jsonl")
    settings.write_text(settings.read_text()[:20])
    after, lines = run("pairs")
    assert after == before
    assert any("is incomplete and is written again" in line for line in lines)
    assert json.loads(result(tmp_path, "pairs").read_text())["task_name"] == "pairs"


def test_results_of_other_data_are_written_again(run, local_data, tmp_path):
    run("pairs")
    rows = (local_data / "sts" / "pairs.jsonl").read_text().splitlines()
    (tmp_path / "data" / "sts").mkdir(parents=True)
    (tmp_path / "data" / "sts" / "pairs.jsonl").write_text("\n".join(rows[:20]))
    _, lines = run("pairs", folder=tmp_path / "data")
    assert any("is of other data and is written again" in line for line in lines)


def test_a_task_without_data_is_named_at_the_end_and_the_others_are_evaluated(
    model, local_data, tmp_path, monkeypatch
):
    tasks = chosen_tasks(["STSBenchmark", "pairs"], local_tasks(local_data))

    def offline(self, *args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(type(tasks["STSBenchmark"]), "load_data", offline)
    with pytest.raises(
        UserError,
        match=r"STSBenchmark: its data, mteb/stsbenchmark-sts, .*Couldn't"
        r" reach the Hub.*`data_dir`",
    ):
        evaluate_tasks(model, tasks, tmp_path, report=str)
    assert result(tmp_path, "pairs")


def test_a_folder_that_cannot_be_written_is_an_error(model, local_data, tmp_path):
    (tmp_path / "results").write_text("a file, where a folder should be")
    tasks = chosen_tasks(["pairs"], local_tasks(local_data))
    with pytest.raises(UserError, match="Cannot write results to"):
        evaluate_tasks(model, tasks, tmp_path, report=str)


def test_a_batch_of_no_texts_is_an_error(model, tmp_path):
    with pytest.raises(UserError, match="at least 1 text, but got 0"):
        evaluate_tasks(model, {}, tmp_path, batch_size=0)


@pytest.mark.parametrize(
    ("model_name", "name"),
    [
        ("org/name", "org/name"),
        ("tiny", "local/tiny"),
        ("/somewhere/runs/mntp/version_0/encoder", "local/runs-mntp-version_0"),
        ("../runs/mntp", "local/runs-mntp"),
    ],
)
def test_a_model_has_a_name_that_mteb_takes(model_name, name):
    assert result_name(model_name) == name
