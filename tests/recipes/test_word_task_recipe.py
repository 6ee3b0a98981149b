import json
import runpy
import sys
from statistics import mean, stdev

import pytest
import yaml
from conll_files import write_conll2000, write_conll2003
from forked import ROOT, run_recipe

from llm2vec_pl.objectives import TokenClassification

SHORT = [
    "--encoder.max_length", "64", "--trainer.max_steps", "20", "--trainer.val_check_interval", "10",
    "--trainer.enable_model_summary", "false", "--data.batch_size", "16",
]  # fmt: skip
TINY = ["--encoder.model_name", "tiny", *SHORT]


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    """A folder with the runs of two seeds on CoNLL-2003, and what was printed."""
    folder = tmp_path_factory.mktemp("word_task")
    write_conll2003(folder / "conll2003")
    flags = ["--data.path", "conll2003", "--data.task", "ner", "--seeds", "2"]
    done = run_recipe("word_task.py", *TINY, *flags, cwd=folder)
    assert done.returncode == 0, done.printed
    return folder, flags, done.printed


@pytest.mark.slow
def test_several_seeds_are_trained_and_averaged(two_seeds):
    folder, _, printed = two_seeds
    assert "ner on conll2003, 2 seeds" in printed
    results = json.loads((folder / "runs/word_task/results.json").read_text())
    assert [run["seed"] for run in results["runs"]] == [0, 1]
    scores = [run["test"]["f1"] for run in results["runs"]]
    found = results["mean"]["chosen"]["test"]["f1"]
    assert found["mean"] == pytest.approx(mean(scores))
    assert found["deviation"] == pytest.approx(stdev(scores))
    assert f"{100 * found['mean']:.2f} ± {100 * found['deviation']:.2f}" in printed
    losses = [run["shifts"]["0"]["validation"]["loss"] for run in results["runs"]]
    assert len(set(losses)) == 2  # other layers, in another order
    for run in results["runs"]:
        best = max(each["validation"]["f1"] for each in run["shifts"].values())
        assert run["validation"]["f1"] == best


@pytest.mark.slow
def test_a_run_leaves_a_tagger_and_a_configuration_of_its_own(two_seeds):
    folder, _, _ = two_seeds
    run = folder / "runs/word_task/seed_1/version_0"
    assert not (run / "encoder").exists()  # it was frozen
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["seeds"], config["seed_everything"]) == (1, 1)
    tagger = TokenClassification.from_pretrained(run / "tagger")
    assert len(tagger.tag([["The", "train", "from", "Oslo"]])[0]) == 4


@pytest.mark.slow
def test_the_same_command_with_resume_repeats_no_run_that_is_done(two_seeds):
    folder, flags, _ = two_seeds
    before = json.loads((folder / "runs/word_task/results.json").read_text())
    done = run_recipe("word_task.py", *TINY, *flags, "--resume", "last", cwd=folder)
    assert done.returncode == 0, done.printed
    assert not list((folder / "runs/word_task").glob("seed_*/version_1"))
    after = json.loads((folder / "runs/word_task/results.json").read_text())
    assert after["mean"]["chosen"]["test"]["f1"] == before["mean"]["chosen"]["test"]["f1"]


@pytest.mark.slow
def test_a_lora_is_trained_and_kept_with_the_tagger(tmp_path):
    write_conll2000(tmp_path / "conll2000")
    flags = ["--data.path", "conll2000", "--data.task", "chunk", "--model.shift", "1"]
    flags += ["--model.train_encoder", "lora", "--encoder.lora_rank", "4"]
    done = run_recipe("word_task.py", *TINY, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.printed
    run = tmp_path / "runs/word_task/version_0"
    assert (run / "encoder" / "adapter_model.safetensors").is_file()
    result = json.loads((run / "results.json").read_text())
    assert (result["shift"], list(result["shifts"])) == (1, ["1"])
    assert result["test"]["f1"] > 0.5
    moved = run.rename(tmp_path / "elsewhere")
    found = TokenClassification.from_pretrained(moved / "tagger").tag([["Mr.", "Lima", "paid"]])
    assert found == [["B-NP", "I-NP", "B-VP"]]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--data.path is missing"),
        (["--data.path", "nowhere.txt"], "--data.path nowhere.txt does not exist"),
        (
            ["--data.path", "conll2003", "--data.task", "ned"],
            "--data.task is one of pos, chunk, ner",
        ),
        (["--data.path", "conll2003", "--model.shift", "2"], "--model.shift is one of auto, 0, 1"),
        (["--data.path", "conll2003", "--seeds", "0"], "--seeds is at least 1, but got 0"),
        (
            ["--data.path", "conll2003", "--data.column", "5"],
            "--data.column is a number from 1 to 4",
        ),
        (
            ["--data.path", "conll2003", "--data.task", "pos", "--data.column", "4"],
            "expected parts of speech for --data.task pos",
        ),
    ],
)
def test_mistakes_are_answered_with_the_flag(tmp_path, monkeypatch, capsys, flags, message):
    write_conll2003(tmp_path / "conll2003", 6)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["word_task.py", *TINY, *flags])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "recipes" / "word_task.py"), run_name="__main__")
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
