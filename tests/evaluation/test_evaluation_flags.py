"""Evaluations added to a recipe by flags and by YAML, in a process of their own."""

import json
from pathlib import Path

import pytest
import yaml
from forked import Done, run_recipe


def run_mntp(folder: str, cwd: Path, *flags: str) -> Done:
    text = cwd / "text.txt"
    text.write_text("\n".join(f"Article {i} is about {i} lakes." for i in range(200)))
    short = f"""--encoder.model_name {folder} --data Wikipedia --data.path {text}
        --data.max_length 32 --data.batch_size 4 --trainer.max_steps 2
        --trainer.accelerator cpu --trainer.enable_progress_bar false"""
    wide = {"COLUMNS": "200"}  # of the terminal
    return run_recipe("mntp.py", *short.split(), *flags, cwd=cwd, environment=wide)


@pytest.mark.slow
def test_flags_add_evaluations_to_a_recipe(llama_folder, sts_file, retrieval_folder, tmp_path):
    flags = f"""--trainer.callbacks+ llm2vec_pl.evaluation.STSEvaluation
        --trainer.callbacks.path {sts_file} --trainer.callbacks.limit 10
        --trainer.callbacks+ llm2vec_pl.evaluation.RetrievalEvaluation
        --trainer.callbacks.path {retrieval_folder}"""
    result = run_mntp(llama_folder, tmp_path, *flags.split())
    assert result.returncode == 0, result.stdout + result.stderr
    table = result.stdout[result.stdout.index("What each step brought") :]
    assert "pairs_dev" in table
    assert "numbers" in table  # above ndcg@10, in a line of its own
    assert "recall@100" not in table
    left = tmp_path / "runs" / "mntp" / "version_0"
    stage = json.loads((left / "encoder" / "lineage.json").read_text())["stages"][-1]
    assert -1 <= stage["metrics"]["val/pairs_dev"] <= 1
    assert 0 < stage["metrics"]["val/numbers/ndcg@10"] <= 1
    repeated = run_mntp(llama_folder, tmp_path, "--config", str(left / "config.yaml"))
    assert repeated.returncode == 0, repeated.stdout + repeated.stderr
    again = json.loads((tmp_path / "runs/mntp/version_1/encoder/lineage.json").read_text())
    assert again["stages"][-1]["metrics"] == pytest.approx(stage["metrics"], rel=1e-5)


@pytest.mark.slow
def test_a_yaml_file_adds_evaluations_to_a_recipe(llama_folder, sts_file, tmp_path):
    callback = {
        "class_path": "llm2vec_pl.evaluation.STSEvaluation",
        "init_args": {
            "path": sts_file,
            "name": "mine",
            "columns": ["sentence2", "sentence1", "score"],
        },
    }
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    result = run_mntp(llama_folder, tmp_path, "--config", "more.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "val/mine" in (tmp_path / "runs/mntp/version_0/metrics.csv").read_text()


@pytest.mark.slow
def test_a_wrong_path_is_one_line_that_names_the_flag(llama_folder, tmp_path):
    flags = (
        "--trainer.callbacks+ llm2vec_pl.evaluation.STSEvaluation --trainer.callbacks.path x.jsonl"
    )
    result = run_mntp(llama_folder, tmp_path, *flags.split())
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(
        "error: --trainer.callbacks.path: x.jsonl does"
    )
    assert "Loading weights" not in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
