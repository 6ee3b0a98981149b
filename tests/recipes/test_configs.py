"""Every shipped YAML parses and builds everything but the weights."""

import sys
from pathlib import Path

import pytest
import yaml

from llm2vec_pl.data import PythonDocs
from llm2vec_pl.decoder.source import Source
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.objectives import MNTP
from llm2vec_pl.training.command import Command

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"
FILES = sorted(CONFIGS.glob("*/*.yaml"))
PAPER = {
    "s-llama-1.3b": (0.2, "bert"),
    "llama-2-7b": (0.2, "bert"),
    "mistral-7b": (0.8, "all"),
    "llama-3-8b": (0.2, "bert"),
}
"""The paper's four models: masked, and how."""
LATER = ("llama-3.1-8b", "llama-3.2-3b", "qwen2.5-0.5b", "qwen2.5-7b", "qwen3-8b")
PUBLISHED = {**PAPER, **dict.fromkeys(LATER, (0.2, "bert"))}
"""Those that its authors have published later, with the numbers of their train_configs, too."""


@pytest.fixture
def offline(monkeypatch, llama_folder):
    """Hub names stand for a small local model: names, not networks, are under test."""

    def locate(name, revision=None):
        return Source(llama_folder, revision, (), llama_folder)

    monkeypatch.setattr("llm2vec_pl.encoder.encoder.locate", locate)


@pytest.fixture
def beside_echo_data(tmp_path):
    """Where the folder of E5 data lies that the supervised configurations name."""
    (tmp_path / "echo-data").mkdir()
    row = '{"query": "a", "positive": "b"}\n'
    (tmp_path / "echo-data" / "allnli.jsonl").write_text(row)
    return tmp_path


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_shipped_config_builds_everything_but_the_weights(
    file, offline, beside_echo_data, monkeypatch, tmp_path
):
    config = yaml.safe_load(file.read_text())
    if config["data"]["init_args"].get("path") == "echo-data":
        monkeypatch.chdir(beside_echo_data)
    arguments = ["--config", str(file), "--trainer.default_root_dir", str(tmp_path)]
    if config["data"]["class_path"].endswith("WordTask"):  # which task is a matter of the run
        arguments += ["--data.path", str(tmp_path)]
    if file.stem == "graded":  # whose pairs the user names
        pairs = beside_echo_data / "pairs.jsonl"
        pairs.write_text('{"sentence1": "a", "sentence2": "b", "score": 1}\n')
        arguments += ["--data.path", str(pairs)]
    # The precision may need a GPU; everything else is built as it is written.
    monkeypatch.setattr(sys, "argv", ["recipe", *arguments, "--trainer.accelerator", "cpu"])
    command = Command(file.stem, MNTP, PythonDocs)
    assert not command.model.encoder.is_loaded
    assert type(command.model).__name__ == config["model"]["class_path"].rsplit(".")[-1]
    assert command.trainer.max_steps == config["trainer"]["max_steps"]


def test_printing_a_config_and_reading_it_back_gives_the_same(
    offline, monkeypatch, tmp_path, capsys
):
    file = CONFIGS / "mistral-7b" / "mntp.yaml"
    printed = []
    for source in (file, tmp_path / "printed.yaml"):
        argv = ["recipe", "--config", str(source), "--print_config"]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit):
            Command("mntp", MNTP, PythonDocs)
        printed.append(capsys.readouterr().out)
        (tmp_path / "printed.yaml").write_text(printed[-1])
    assert printed[0] == printed[1]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_authors_numbers(name):
    config = yaml.safe_load((CONFIGS / name / "mntp.yaml").read_text())
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert (model["mask_probability"], model["masking"]) == PUBLISHED[name]
    assert model["learning_rate"] == 5e-5
    assert (data["batch_size"], config["encoder"]["max_length"]) == (32, 512)
    assert config["encoder"]["lora_rank"] == 16
    assert config["trainer"]["max_steps"] == 1000


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_the_papers_contrastive_numbers(name):
    """LLM2Vec, sections 3.1 and 4.1 and their appendices."""
    simcse = yaml.safe_load((CONFIGS / name / "simcse.yaml").read_text())
    model, data = simcse["model"]["init_args"], simcse["data"]["init_args"]
    assert data["batch_size"] == (32 if name == "s-llama-1.3b" else 128)
    assert (model["temperature"], model["learning_rate"]) == (0.05, 3e-5)
    assert (simcse["encoder"]["max_length"], simcse["encoder"]["attention_dropout"]) == (128, 0.3)
    supervised = yaml.safe_load((CONFIGS / name / "supervised.yaml").read_text())
    model, data = supervised["model"]["init_args"], supervised["data"]["init_args"]
    assert (data["batch_size"], supervised["encoder"]["max_length"]) == (512, 512)
    assert (model["temperature"], model["learning_rate"]) == (0.02, 2e-4)
    assert model["warmup_steps"] == 300
    for config in (simcse, supervised):
        assert config["encoder"]["lora_rank"] == 16
        assert config["trainer"]["max_steps"] == 1000


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_shipped_config_says_once_how_long_a_text_is(file):
    config = yaml.safe_load(file.read_text())
    assert config["encoder"]["max_length"] >= 32
    assert "max_length" not in str(config["data"])


def test_every_flag_of_the_encoder_is_explained():
    import inspect

    documentation = inspect.getdoc(Encoder)
    assert all(f"{name}:" in documentation for name in inspect.signature(Encoder).parameters)
