"""The recipes as a user runs them: each in a process of its own, on small models and real text."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from first_cases import slow_and_exhaustive
from forked import run_recipe
from saved_models import save_model, small_llama
from transformers import Gemma3TextConfig, MistralConfig, Qwen3Config

from llm2vec_pl.encoder.encoder import Encoder

ROOT = Path(__file__).parents[2]
SIZES = {
    "vocab_size": 8192,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}
DECODERS = {
    "qwen3": Qwen3Config(**SIZES),
    "gemma3": Gemma3TextConfig(**SIZES, sliding_window=16, query_pre_attn_scalar=8),
    "mistral": MistralConfig(**SIZES, sliding_window=16),
}
OWN_OBJECTIVE = '''
from llm2vec_pl import MNTP

class Twice(MNTP):
    """MNTP, twice as much of it."""

    def loss(self, batch):
        return 2 * super().loss(batch)
'''


@pytest.fixture(scope="module")
def articles(tmp_path_factory) -> str:
    lines = [f"Article {i} is about {'rivers ' * (i % 5)}and {i} lakes." for i in range(200)]
    path = tmp_path_factory.mktemp("data") / "articles.txt"
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(save_model(small_llama(), tmp_path_factory.mktemp("models") / "llama"))


def run(recipe: str, *arguments: str, cwd: Path, expect: int = 0) -> str:
    """Runs a recipe in `cwd`; returns all that it printed."""
    done = run_recipe(recipe, *arguments, cwd=cwd)
    assert done.returncode == expect, done.printed
    return done.printed


def run_from_a_shell(recipe: str, *arguments: str, cwd: Path) -> str:
    """The same by a fresh interpreter, which has imported nothing."""
    command = [sys.executable, str(ROOT / "recipes" / recipe), *arguments]
    environment = {**os.environ, "LLM2VEC_PL_CACHE": str(cwd / "cache"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def short(folder: str, articles: str, *more: str) -> list[str]:
    flags = f"""--encoder.model_name {folder} --data Wikipedia --data.path {articles}
        --data.max_length 32 --data.batch_size 4 --trainer.max_steps 6 --trainer.log_every_n_steps 1
        --trainer.accelerator cpu --trainer.enable_progress_bar false"""
    return [*flags.split(), *more]


def losses(run_folder: Path) -> list[str]:
    header, *rows = (run_folder / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("train/loss")
    return [row.split(",")[column] for row in rows if row.split(",")[column]]


@pytest.mark.slow
def test_a_run_leaves_logs_config_checkpoints_and_an_encoder(folder, articles, tmp_path):
    printed = run("mntp.py", *short(folder, articles), cwd=tmp_path)
    left = tmp_path / "runs" / "mntp" / "version_0"
    names = {path.name for path in left.iterdir()}
    assert {"config.yaml", "metrics.csv", "checkpoints", "encoder"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    checkpoints = {path.name for path in (left / "checkpoints").iterdir()}
    assert checkpoints == {"best.ckpt", "last.ckpt"}
    assert Encoder.from_pretrained(left / "encoder").encode(["a text", "two"]).shape == (2, 32)
    stage = json.loads((left / "encoder" / "lineage.json").read_text())["stages"][-1]
    assert (stage["recipe"], stage["objective"], stage["steps"]) == ("mntp", "MNTP", 6)
    assert stage["metrics"]["val/loss"] > 0
    assert "What each step brought" in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_the_config_of_a_run_repeats_it_to_the_last_bit(folder, articles, tmp_path):
    run("mntp.py", *short(folder, articles), cwd=tmp_path)
    first = tmp_path / "runs" / "mntp" / "version_0"
    run("mntp.py", "--config", str(first / "config.yaml"), cwd=tmp_path)
    second = tmp_path / "runs" / "mntp" / "version_1"
    assert len(losses(first)) == 6
    assert losses(first) == losses(second)
    assert yaml.safe_load((second / "config.yaml").read_text())["data"]["init_args"]["path"]


@pytest.mark.parametrize("name", slow_and_exhaustive(DECODERS))
def test_real_wikipedia_trains_any_decoder(name, shared_data, tmp_path):
    folder = str(save_model(DECODERS[name], tmp_path / name))
    data = str(shared_data / "wikipedia")
    flags = short(folder, data, "--data.max_rows", "50", "--trainer.limit_val_batches", "2")
    run("mntp.py", *flags, cwd=tmp_path)
    assert (tmp_path / "runs/mntp/version_0/encoder/adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_the_papers_config_trains_with_mixed_precision_and_clipping(folder, articles, tmp_path):
    config = ["--config", str(ROOT / "recipes/configs/mistral-7b/mntp.yaml")]
    run("mntp.py", *config, *short(folder, articles), cwd=tmp_path)
    assert len(losses(tmp_path / "runs" / "mntp" / "version_0")) == 6


@pytest.mark.slow
def test_two_ranks_train(folder, articles, tmp_path):
    ranks = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    run_from_a_shell("mntp.py", *short(folder, articles, *ranks), cwd=tmp_path)
    left = tmp_path / "runs" / "mntp" / "version_0"
    assert len(losses(left)) == 6
    assert Encoder.from_pretrained(left / "encoder").encode("a text").isfinite().all()


@pytest.mark.slow
def test_a_users_own_objective_trains_by_its_dotted_path(folder, articles, tmp_path):
    (tmp_path / "my_module.py").write_text(OWN_OBJECTIVE)
    run("mntp.py", *short(folder, articles, "--model", "my_module.Twice"), cwd=tmp_path)
    lineage = tmp_path / "runs/mntp/version_0/encoder/lineage.json"
    assert json.loads(lineage.read_text())["stages"][-1]["objective"] == "Twice"


@pytest.mark.slow
def test_a_next_stage_starts_from_the_folder_of_the_one_before(folder, articles, tmp_path):
    run("mntp.py", *short(folder, articles), cwd=tmp_path)
    run("mntp.py", *short("runs/mntp/version_0/encoder", articles), cwd=tmp_path)
    last = tmp_path / "runs/mntp/version_1/encoder"
    assert len(json.loads((last / "lineage.json").read_text())["stages"]) == 2
    assert (last / "adapters" / "0" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_a_decoder_is_pretrained_from_scratch_and_can_be_adapted(folder, articles, tmp_path):
    flags = short(folder, articles, "--model.learning_rate", "1e-2")
    run("pretrain.py", *flags, cwd=tmp_path)
    left = tmp_path / "runs" / "pretrain" / "version_0"
    assert float(losses(left)[-1]) < float(losses(left)[0])
    run("mntp.py", *short(str(left / "encoder"), articles), cwd=tmp_path)


@pytest.mark.slow
def test_early_stopping_is_a_flag(folder, articles, tmp_path):
    stop = ["EarlyStopping", "val/loss", "1", "100"]
    names = ["", ".monitor", ".patience", ".min_delta"]
    flags = [
        word
        for name, value in zip(names, stop, strict=True)
        for word in (f"--trainer.callbacks{'+' if not name else ''}{name}", value)
    ]
    flags += ["--trainer.max_steps", "50", "--trainer.val_check_interval", "2"]
    run("mntp.py", *short(folder, articles, *flags), cwd=tmp_path)
    lineage = json.loads((tmp_path / "runs/mntp/version_0/encoder/lineage.json").read_text())
    assert lineage["stages"][-1]["steps"] < 50


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--encoder.model_nmae x", "Did you mean --encoder.model_name?"),
        ("--data Wikpedia", "Did you mean Wikipedia?"),
        ("--encoder.dtype flaot32", "Did you mean float32?"),
        ("--encoder.model_name {empty}", "has no weights"),
        ("--data Wikipedia --data.path nowhere.txt", "nowhere.txt"),
        ("--data Wikipedia --data.path {articles} --data.column x --data.on_bad_row no", "on_bad"),
    ],
)
def test_a_mistake_is_a_line_or_two_and_exit_code_2(flags, expected, articles, tmp_path):
    empty = tmp_path / "empty"
    small_llama().save_pretrained(empty)
    printed = run(
        "mntp.py", *flags.format(empty=empty, articles=articles).split(), cwd=tmp_path, expect=2
    )
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert expected in errors[0]
    assert "Traceback" not in printed
    assert "Loading weights" not in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "data"),
    [("simcse.py", "PythonDocsSentences"), ("supervised.py", "PythonDocsPairs")],
)
def test_naming_a_decoder_leaves_the_embedded_data(recipe, data, folder, tmp_path):
    printed = run(recipe, "--encoder.model_name", folder, "--print_config", cwd=tmp_path)
    config = yaml.safe_load(printed)
    assert config["data"]["class_path"].endswith(f".{data}")
    assert config["model"]["init_args"]["learning_rate"] == 5e-5
