"""Recipes up to where weights would be loaded: `dry_runs.py COMMANDS.json FAULTS.json HUB`.

HUB is a cache in the layout of the hub's, the only one that is looked into.

A command is a list: the recipe's file and its flags. Of each that is refused, what it printed is
written down; of the others null.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any
from unittest import mock

from huggingface_hub import constants

from llm2vec_pl.training.command import Command, Parser
from llm2vec_pl.training.pipeline.run import Pipeline


class ReachedWeightsError(BaseException):
    """All flags have been taken. No Exception, which a recipe might catch."""


def fault(recipe: str, flags: list[str]) -> str | None:
    """What a recipe has against its flags."""
    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        mock.patch.object(sys, "argv", [recipe, *flags]),
    ):
        try:
            runpy.run_path(recipe, run_name="__main__")
            return None
        except ReachedWeightsError:
            return None
        except SystemExit as stop:
            if not stop.code:
                return None
        except Exception:
            traceback.print_exc()
    return printed.getvalue()


def stops_when_built(build: Any) -> Any:
    def build_and_stop(self: Any, *args: Any, **kwargs: Any) -> None:
        with mock.patch.object(Parser, "parse_args", parse):
            build(self, *args, **kwargs)
        raise ReachedWeightsError

    return build_and_stop


def parse_and_stop(self: Parser, *args: Any, **kwargs: Any) -> None:
    parse(self, *args, **kwargs)
    raise ReachedWeightsError


def parse_plainly_and_stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
    values = parse_plainly(self, *args, **kwargs)
    if type(self) is argparse.ArgumentParser:
        raise ReachedWeightsError
    return values


def try_each_stage(self: Pipeline) -> None:
    """With a run that is there already in the place of each that a later stage starts from."""
    for stage in self.stages:
        run = self.out / stage / "version_0"
        run.parent.mkdir(parents=True, exist_ok=True)
        if not run.exists():
            run.symlink_to(Path("runs/mntp/version_0").resolve())
        _, recipe, *flags = self.command(stage)
        if found := fault(recipe, flags):
            print(found)
            raise SystemExit(2)
    raise ReachedWeightsError


parse = Parser.parse_args
parse_plainly = argparse.ArgumentParser.parse_args

if __name__ == "__main__":
    commands, target = map(Path, sys.argv[1:3])
    with (
        mock.patch.object(constants, "HF_HUB_CACHE", sys.argv[3]),
        mock.patch.object(constants, "HF_HUB_OFFLINE", True),
        mock.patch.object(Command, "__init__", stops_when_built(Command.__init__)),
        mock.patch.object(Parser, "parse_args", parse_and_stop),
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_plainly_and_stop),
        mock.patch.object(Pipeline, "run", try_each_stage),
    ):
        found = [fault(recipe, flags) for recipe, *flags in json.loads(commands.read_text())]
    target.write_text(json.dumps(found))
