"""What a recipe uses if the command line does not say: data, and settings for `tiny`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from llm2vec_pl.decoder import LINEAGE, TINY, locate, newest_run
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import read_json


def comes_from_tiny(model_name: str) -> bool:
    """Whether this is the embedded decoder, or was trained from it.

    Its settings do not suit other decoders: a learning rate of 2e-3 ruins one with billions of
    weights.

    Args:
        model_name: any `--encoder.model_name`.
    """
    if model_name == "tiny":
        return True
    folder = newest_run(Path(model_name).expanduser())
    if not folder.is_dir():
        return False
    try:
        lineage = read_json(folder / LINEAGE)  # exists for fully trained weights too
        return lineage.get("base_model") == "tiny" or locate(str(folder)).base == str(TINY)
    except UserError:
        return False  # the encoder's constructor will report it


class Given(NamedTuple):
    """What the user has given explicitly, which parsed flags with their defaults do not show.

    Args:
        config: whether there is a `--config`.
        data: whether flags or files name the data's class, or only a path; None for neither.
    """

    config: bool
    data: Literal["class", "path"] | None


def look_through(arguments: Sequence[str]) -> Given:
    """Finds what must be known before all flags can be parsed.

    Args:
        arguments: the arguments of the command line.
    """
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    flags.add_argument("-c", "--config", action="append", nargs="?", default=[])
    flags.add_argument("--data", nargs="?")
    flags.add_argument("--data.path", dest="path", nargs="?")
    given, _ = flags.parse_known_args(arguments)
    sections = [_data_of(file) for file in given.config if file]
    data: Literal["class", "path"] | None = "path" if given.path or any(sections) else None
    if given.data or any(isinstance(each, str) or "class_path" in each for each in sections):
        data = "class"
    return Given(bool(given.config), data)


def _data_of(file: str) -> Any:
    """The `data` of a configuration; empty if the file cannot be read."""
    import yaml

    try:
        config = yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}  # the parser will report it
    return (config.get("data") if isinstance(config, dict) else None) or {}
