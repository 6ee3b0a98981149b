"""What a recipe takes where the command line leaves it open: data, and numbers for `tiny`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm2vec_pl.decoder import LINEAGE, TINY, locate, newest_run
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import read_json

_CONFIG = ("-c", "--config")


def names(*flags: str) -> bool:
    """Whether the command line has one of these flags."""
    return not {argument.split("=")[0] for argument in sys.argv[1:]}.isdisjoint(flags)


def has_demo_numbers() -> bool:
    """Whether the numbers for the embedded decoder hold: for it and what was trained from it.

    They are no numbers for another decoder: a learning rate of 2e-3 ruins one of billions of
    weights. A `--config` has its own.
    """
    if names(*_CONFIG, "--encoder"):
        return False
    name = next((value for value in _values("--encoder.model_name")), "tiny")
    return name == "tiny" or _comes_from_tiny(newest_run(Path(name).expanduser()))


def data_is_open() -> bool:
    """Whether neither the command line nor a `--config` says what to train on."""
    return not names("--data", "--data.path") and not any(map(_data_of, _values(*_CONFIG)))


def needs_reader() -> bool:
    """Whether there is a path to data, but no data module is named to read it."""
    if names("--data"):
        return False
    sections = [_data_of(file) for file in _values(*_CONFIG)]
    if any(isinstance(data, str) or "class_path" in data for data in sections):
        return False
    return names("--data.path") or any(sections)


def _values(*flags: str) -> Iterator[str]:
    """What the command line gives a flag."""
    arguments = sys.argv[1:]
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in flags:
            yield value if equals else following


def _data_of(file: str) -> Any:
    """The `data` of a configuration; an empty one where the file cannot be read."""
    import yaml

    try:
        config = yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}  # the parser says what is wrong
    return (config.get("data") if isinstance(config, dict) else None) or {}


def _comes_from_tiny(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    try:
        lineage = read_json(folder / LINEAGE)  # also of weights that were trained in full
        return lineage.get("base_model") == "tiny" or locate(str(folder)).base == str(TINY)
    except UserError:
        return False  # it is said when the encoder is made
