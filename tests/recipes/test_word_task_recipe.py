import json
from statistics import mean, stdev

import pytest
import yaml
from conll_files import write_conll2000, write_conll2003
from forked import run_recipe

from llm2vec_pl.objectives import TokenClassification

SHORT = [
    "--encoder.max_length", "64", "--trainer.max_steps", "30", "--trainer.val_check_interval", "15",
    "--trainer.enable_model_summary", "false", "--data.batch_size", "16",
]  # fmt: skip
TINY = ["--encoder.model_name", "tiny", *SHORT]


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory):
    """A folder with the runs of three seeds on CoNLL-2003, and what was printed."""
    folder = tmp_path_factory.mktemp("word_task")
    write_conll2003(folder / "conll2003")
    flags = ["--data.path", "conll2003", "--data.task", "ner", "--seeds", "3"]
    done = run_recipe("word_task.py", *TINY, *flags, cwd=folder)
    assert done.returncode == 0, done.printed
    return folder, flags, done.printed


@pytest.mark.slow
def test_several_seeds_are_trained_and_averaged(three_seeds):
    folder, _, printed = three_seeds
    assert "ner on conll2003, 3 seeds" in printed
    results = json.loads((folder / "runs/word_task/results.json").read_text())
    assert [run["seed"] for run in results["runs"]] == [0, 1, 2]
    scores = [run["test"]["f1"] for run in results["runs"]]
    found = results["mean"]["chosen"]["test"]["f1"]
    assert found["mean"] == pytest.approx(mean(scores))
    assert found["deviation"] == pytest.approx(stdev(scores))
    assert f"{100 * found['mean']:.2f} ± {100 * found['deviation']:.2f}" in printed
    losses = [run["shifts"]["0"]["validation"]["loss"] for run in results["runs"]]
    assert len(set(losses)) == 3  # other layers, in another order
    for run in results["runs"]:
        best = max(each["validation"]["f1"] for each in run["shifts"].values())
        assert run["validation"]["f1"] == best


@pytest.mark.slow
def test_a_run_leaves_a_tagger_and_a_configuration_of_its_own(three_seeds):
    folder, _, _ = three_seeds
    run = folder / "runs/word_task/seed_1/version_0"
    assert not (run / "encoder").exists()  # it was frozen
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["seeds"], config["seed_everything"]) == (1, 1)
    tagger = TokenClassification.from_pretrained(run / "tagger")
    assert len(tagger.tag([["The", "train", "from", "Oslo"]])[0]) == 4


@pytest.mark.slow
def test_the_same_command_with_resume_repeats_no_run_that_is_done(three_seeds):
    folder, flags, _ = three_seeds
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
def test_mistakes_are_answered_with_the_flag(tmp_path, flags, message):
    write_conll2003(tmp_path / "conll2003", 6)
    done = run_recipe("word_task.py", *TINY, *flags, cwd=tmp_path)
    assert done.returncode == 2, done.printed
    assert message in done.stderr
    assert "Traceback" not in done.printed
