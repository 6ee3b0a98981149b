"""What the recipes take where the command line leaves it open, without a process for each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from standard_library_docs import fill_cache

from llm2vec_pl.data import E5, PythonDocs, PythonDocsPairs, Wikipedia
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.objectives import MNTP, Contrastive
from llm2vec_pl.training.command import Command
from llm2vec_pl.training.demo import look_through

TINY = Path(__file__).parents[2] / "recipes" / "configs" / "tiny"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with a run of recipes/simcse.py on the embedded decoder."""
    folder = tmp_path_factory.mktemp("work")
    encoder = Encoder("tiny", lora_rank=2)
    encoder.load()
    (folder / "runs" / "simcse" / "version_0").mkdir(parents=True)
    save_encoder(
        encoder, folder / "runs" / "simcse" / "version_0" / "encoder", {"recipe": "simcse"}
    )
    return folder


@pytest.fixture
def recipe(runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A recipe's command line, as in the recipe itself; and the lines that it says."""
    monkeypatch.chdir(runs)
    said: list[str] = []
    monkeypatch.setattr("llm2vec_pl.training.command.rank_zero_info", said.append)

    def command(name: str, *arguments: str) -> tuple[Any, list[str]]:
        flags = [*arguments, "--trainer.accelerator", "cpu", "--trainer.logger", "false"]
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags])
        said.clear()
        demo = TINY / f"{name}.yaml"
        if name == "mntp":
            built = Command(name, MNTP, PythonDocs, {"trainer.max_steps": 1000}, demo, Wikipedia)
        else:
            defaults = {"model.temperature": 0.02, "trainer.max_steps": 1000}
            built = Command(name, Contrastive, PythonDocsPairs, defaults, demo, E5)
        return built, said

    return command


@pytest.mark.parametrize("name", ["runs/simcse", "runs/simcse/version_0/encoder", "tiny"])
def test_what_comes_from_the_embedded_decoder_keeps_its_data_and_numbers(recipe, name: str) -> None:
    command, said = recipe("supervised", "--encoder.model_name", name)
    assert type(command.datamodule) is PythonDocsPairs
    assert command.datamodule.batch_size == 64
    assert (command.model.learning_rate, command.trainer.max_steps) == (2e-3, 120)
    assert said[0].startswith("supervised: without --data, PythonDocsPairs: the documentation of")
    assert "configs/tiny/supervised.yaml" in said[0]


def test_another_decoder_has_the_embedded_data_and_the_recipes_numbers(
    recipe, llama_folder
) -> None:
    command, said = recipe("supervised", f"--encoder.model_name={llama_folder}")
    assert type(command.datamodule) is PythonDocsPairs
    assert command.datamodule.batch_size == 32
    assert (command.model.learning_rate, command.trainer.max_steps) == (5e-5, 1000)
    assert said[0].endswith("the recipe's own settings")


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    (tmp_path / "nq.jsonl").write_text('{"query": "a", "positive": "b"}\n')
    return str(tmp_path / "nq.jsonl")


def test_a_path_alone_is_read_by_the_recipes_reader(recipe, llama_folder, pairs: str) -> None:
    for model in ("tiny", llama_folder):
        flags = ["--encoder.model_name", model, "--data.path", pairs]
        command, said = recipe("supervised", *flags)
        assert type(command.datamodule) is E5
        assert not said


@pytest.mark.parametrize("has_class", [True, False])
def test_a_config_that_names_its_data_wins(
    recipe, tmp_path: Path, pairs: str, has_class: bool
) -> None:
    data = {"class_path": "E5", "init_args": {"path": pairs}} if has_class else {"path": pairs}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"data": data}))
    command, said = recipe("supervised", "--config", str(tmp_path / "mine.yaml"))
    assert type(command.datamodule) is E5
    assert command.model.learning_rate == 5e-5
    assert not said


def test_a_config_without_data_leaves_the_embedded_data(recipe, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("trainer: {max_steps: 7}")
    command, said = recipe("supervised", "--config", str(tmp_path / "mine.yaml"))
    assert type(command.datamodule) is PythonDocsPairs
    assert (command.trainer.max_steps, len(said)) == (7, 1)


@pytest.mark.parametrize("config", [False, True])
def test_the_encoders_max_length_is_that_of_the_blocks(recipe, config: bool) -> None:
    flags = ["--config", str(TINY / "mntp.yaml")] if config else []
    for more, length in [
        ([], 256),
        (["--encoder.max_length", "128"], 128),
        (["--encoder.max_length", "384"], 384),
        (["--encoder.max_length", "128", "--data.max_length", "64"], 64),
    ]:
        command, _ = recipe("mntp", *flags, *more)
        data = command.datamodule.attach(command.model.encoder)
        assert data.max_length == length


def test_data_without_a_length_has_that_of_the_encoder(recipe, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    flags = ["--data", "Wikipedia", "--data.path", str(tmp_path / "a.txt")]
    command, _ = recipe("mntp", "--encoder.model_name", "tiny", *flags)
    assert command.datamodule.attach(command.model.encoder).max_length == 256
    command, _ = recipe("mntp", *flags, "--encoder.max_length", "128")
    assert command.datamodule.attach(command.model.encoder).max_length == 128


def test_two_lengths_that_differ_are_said(
    recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path))
    fill_cache(every=40)
    command, _ = recipe("mntp", "--encoder.max_length", "128", "--data.max_length", "64")
    said: list[str] = []
    monkeypatch.setattr("llm2vec_pl.data.text_blocks.rank_zero_info", said.append)
    command.datamodule.attach(command.model.encoder).setup()
    assert "blocks of 64 tokens (`data.max_length`; `encoder.max_length` is 128)" in said[-1]


def test_a_decoder_that_a_file_names_has_the_recipes_numbers(
    recipe, llama_folder, tmp_path: Path
) -> None:
    (tmp_path / "encoder.yaml").write_text(f"model_name: {llama_folder}")
    command, said = recipe("mntp", "--encoder", str(tmp_path / "encoder.yaml"))
    assert type(command.datamodule) is PythonDocs
    assert (command.model.learning_rate, command.trainer.max_steps) == (5e-5, 1000)
    assert said[0].endswith("the recipe's own settings")


def test_the_newest_run_of_another_decoder_has_the_recipes_numbers(
    recipe, llama_folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(llama_folder, lora_rank=2).load()
    save_encoder(encoder, tmp_path / "runs" / "mntp" / "version_0" / "encoder", {"recipe": "mntp"})
    monkeypatch.chdir(tmp_path)
    command, _ = recipe("supervised")
    assert command.model.encoder.source.base == llama_folder
    assert (command.model.learning_rate, command.datamodule.batch_size) == (5e-5, 32)


@pytest.mark.parametrize("is_tiny", [True, False])
def test_a_config_that_is_printed_has_the_numbers_that_hold(
    recipe, llama_folder, capsys: pytest.CaptureFixture[str], is_tiny: bool
) -> None:
    name = "tiny" if is_tiny else llama_folder
    with pytest.raises(SystemExit):
        recipe("mntp", "--print_config", "--encoder.model_name", name)
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["encoder"]["model_name"] == name
    assert printed["model"]["init_args"]["learning_rate"] == (2e-3 if is_tiny else 5e-5)


@pytest.mark.parametrize(
    ("flags", "given"),
    [
        ("", (False, None)),
        ("--data.batch_size 8 --encoder.model_name x", (False, None)),
        ("--data.path=a", (False, "path")),
        ("--data E5 --data.path a", (False, "class")),
        ("--data", (False, None)),
        ("-c missing.yaml", (True, None)),
    ],
)
def test_a_command_line_is_looked_through(flags: str, given: tuple[bool, str | None]) -> None:
    assert look_through(flags.split()) == given
