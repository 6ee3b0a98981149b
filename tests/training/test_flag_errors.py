"""The command line's errors, without starting a process for each."""

import sys

import pytest

from llm2vec_pl import Encoder
from llm2vec_pl.data import PythonDocs, PythonDocsSentences, Wikipedia
from llm2vec_pl.errors import UserError, user_errors
from llm2vec_pl.objectives import MNTP, Contrastive, Distillation
from llm2vec_pl.training import Parser
from llm2vec_pl.training.command import Command
from llm2vec_pl.training.flag_errors import arguments_of, with_flags


def error_of(arguments: str, monkeypatch, capsys, recipe=("mntp", MNTP, PythonDocs)) -> str:
    monkeypatch.setattr(sys, "argv", [f"{recipe[0]}.py", *arguments.split()])
    with pytest.raises(SystemExit) as exit_:
        Command(*recipe)
    assert exit_.value.code == 2
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--encoder.model_nmae x", "There is no option --encoder.model_nmae. Did you mean --encoder.model_name?"),
        ("--trainer.max_stps 3", "There is no option --trainer.max_stps. Did you mean --trainer.max_steps?"),
        ("--data.pth x", "There is no option --data.pth. Did you mean --data.path?"),
        ("--model.mask_probablity 1", "Did you mean --model.mask_probability?"),
        ("--data Wikpedia", "--data: there is no data module Wikpedia. Did you mean Wikipedia?"),
        ("--model MTNP", "--model: there is no objective MTNP. Did you mean MNTP?"),
        ("--encoder.dtype flaot32", "--encoder.dtype is one of float32, bfloat16, float16, but got flaot32. Did you mean float32?"),
        ("--encoder.pooling men", "--encoder.pooling is one of mean, weighted_mean, last, first"),
        ("--data.batch_size x", "--data.batch_size expects int, but got x."),
        ("--trainer.precision 17", "--trainer.precision is one of"),
        ("--config nofile.yaml", "--config: File does not exist"),
        ("--encoder.model_name /no/such/folder", "--encoder.model_name: there is no folder /no/such/folder."),
        ("--model.mask_probability 2", "--model.mask_probability lies in (0, 1], but got 2.0."),
        ("--model.mask_token nosuchtoken", "--model.mask_token nosuchtoken"),
        ("--trainer.strategy dpp", "--trainer: You selected an invalid strategy name"),
        ("--trainer.accelerator tpuu", "--trainer: "),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named_with_the_nearest_right_one(
    arguments, expected, monkeypatch, capsys
):
    error = error_of(arguments, monkeypatch, capsys)
    last = error.splitlines()[-1]
    assert last.startswith("error: ")
    assert expected in last
    assert "Traceback" not in error


def test_several_unknown_options_are_shown_together(monkeypatch, capsys):
    error = error_of("--encoder.nmae x --trainer.max_stps 3", monkeypatch, capsys)
    assert "--encoder.nmae" in error
    assert "--trainer.max_stps" in error


SIMCSE = ("simcse", Contrastive, PythonDocsSentences)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--model.temperature -1", "--model.temperature is above 0, but got -1.0."),
        ("--model.learn_temperature true --model.temperature 0.001", "--model.learn_temperature true starts from a --model.temperature of at least 0.01"),
        ("--model.symmetric true --model.in_batch_negatives false", "it needs --model.in_batch_negatives true."),
        ("--data.batch_size 0", "--data.batch_size expects at least 1, but got 0."),
        ("--data.min_length 9 --data.max_length 3", "--data.min_length and --data.max_length expect 1 <= min <= max"),
        ("--data Wikipedia --data.path none.txt", "--data.path none.txt does not exist"),
        ("--data Wikipedia --data.max_length 1", "--data.max_length expects at least 2, but got 1."),
        ("--model CausalLM", "Set --encoder.bidirectional false."),
        ("--trainer.callbacks+ llm2vec_pl.evaluation.STSEvaluation --trainer.callbacks.path x.jsonl", "--trainer.callbacks.path: x.jsonl does not exist"),
        ("--trainer.callbacks+ llm2vec_pl.evaluation.RetrievalEvaluation --trainer.callbacks.limit 0", "--trainer.callbacks.limit expects at least 1, but got 0."),
    ],
)  # fmt: skip
def test_an_error_of_the_library_names_the_flag(arguments, expected, monkeypatch, capsys):
    error = error_of(arguments, monkeypatch, capsys, SIMCSE)
    last = error.splitlines()[-1]
    assert last.startswith("error: ")
    assert expected in last
    assert "`" not in last
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "--model.teacher is missing: name the encoder to learn from"),
        ("--model.teacher tiny --model.embedding_weight -1", "--model.similarity_weight and --model.embedding_weight are at least 0"),
        ("--model.teacher tiny --model.teacher_batch_size 0", "--model.teacher_batch_size is at least 1 text"),
    ],
)  # fmt: skip
def test_an_error_of_distillation_names_the_flag(arguments, expected, monkeypatch, capsys):
    recipe = ("distill", Distillation, PythonDocsSentences)
    assert expected in error_of(arguments, monkeypatch, capsys, recipe)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("`dtype` is unknown.", "--encoder.dtype is unknown."),
        ("`dtype='int3'` is unknown.", "--encoder.dtype int3 is unknown."),
        ('Set `quantization="nf4"`.', "Set --encoder.quantization nf4."),
        ("Set `chunk_size=None`.", "Set --model.chunk_size null."),
        ("Set `bidirectional=False`.", "Set --encoder.bidirectional false."),
        ("`max_length` and `data.max_length`", "--encoder.max_length and --data.max_length"),
        ("`Trainer(max_steps=N)`", "--trainer.max_steps N"),
        ("`Trainer(overfit_batches)`", "--trainer.overfit_batches"),
        ("`checkpoint.mode`", "--checkpoint.mode"),
        ("`STSEvaluation.limit`", "--trainer.callbacks.limit"),
        ("Call `tokenize`, not dtype.", "Call `tokenize`, not dtype."),
    ],
)
def test_arguments_in_backquotes_become_flags(message, expected):
    flags = arguments_of({"encoder": [Encoder], "model": [Contrastive], "data": [Wikipedia]})
    assert with_flags(message, flags) == expected


def test_the_first_class_that_has_an_argument_gives_its_flag():
    flags = arguments_of({"encoder": [Encoder], "model": [MNTP], "data": [Wikipedia, PythonDocs]})
    assert flags["max_length"] == "--encoder.max_length"
    assert flags["mask_token"] == "--model.mask_token"
    assert flags["path"] == "--data.path"
    assert "encoder" not in flags


def test_a_flag_of_the_command_itself_comes_first(capsys):
    parser = Parser()
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--range_max", type=int)
    parser.add_class_arguments(Encoder, "encoder", instantiate=False)
    parser.parse_args([])
    with pytest.raises(SystemExit), user_errors():
        raise UserError("`range_max=9`, `batch_size`, `path`; an `encoder`; `ckpt_path`")
    error = capsys.readouterr().err
    assert error == ("error: --range_max 9, --batch_size, --data.path; an `encoder`; `ckpt_path`\n")
    parser.add_argument("--resume")
    with pytest.raises(SystemExit), user_errors():
        raise UserError("`ckpt_path`: the checkpoint is of another model.")
    assert capsys.readouterr().err == "error: --resume: the checkpoint is of another model.\n"
