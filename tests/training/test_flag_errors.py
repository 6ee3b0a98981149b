"""The command line's errors, without starting a process for each."""

import sys

import pytest

from llm2vec_pl.data import PythonDocs
from llm2vec_pl.objectives import MNTP
from llm2vec_pl.training.command import Command


def error_of(arguments: str, monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", ["mntp.py", *arguments.split()])
    with pytest.raises(SystemExit) as exit_:
        Command("mntp", MNTP, PythonDocs)
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
