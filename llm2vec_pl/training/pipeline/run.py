"""From decoder to encoder: the recipes one after another, and what each of them brought."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from llm2vec_pl.decoder import encoder_contents, file_contents
from llm2vec_pl.errors import UserError
from llm2vec_pl.training.pipeline.measures import Measure, Results, different
from llm2vec_pl.training.pipeline.stage_record import START, StageRecord
from llm2vec_pl.training.pipeline.stages import (
    BIDIRECTIONAL,
    STAGES,
    before,
    checked,
    flags_of,
    row_of,
)


@dataclass
class Pipeline:
    """Runs the recipes of the method's steps, each starting from the result of the one before.

    Each stage is the command that a user would type, in its own process. A finished stage is not
    run again, and an interrupted one continues from its last checkpoint, if its inputs have not
    changed since. If a stage is trained again, so are those that start from it, and whatever has
    changed is measured again. Outdated runs stay on disk, unused.

    Args:
        recipes: the folder with the stages' recipes, such as mntp.py.
        configs: the folder with their configurations, such as mntp.yaml.
        out: the folder for the stages' runs and the results.
        stages: the stages in their order, by the names of their recipes.
        model_name: the decoder to start from, any `--encoder.model_name`; by default that of
            mntp.yaml, or that of the first stage where there is none.
        causal: leave out step 1 and MNTP, for comparison: the same decoder with causal attention.
        supervised_from: the stage that supervised training starts from; by default MNTP, the
            paper's best, or the decoder if MNTP is not among the stages.
        measures: what to measure each row on.
        flags: further flags of the recipes, such as `--trainer.devices 8`; for a single stage,
            write `--mntp.trainer.max_steps 100`.

    Raises:
        UserError: if a stage, its recipe or its configuration does not exist, or two measures have
            the same name.
    """

    recipes: Path
    configs: Path
    out: Path
    stages: Sequence[str] = STAGES
    model_name: str | None = None
    causal: bool = False
    supervised_from: str | None = None
    measures: Sequence[Measure] = ()
    flags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.causal:
            self.stages = [stage for stage in self.stages if stage != BIDIRECTIONAL]
            if self.supervised_from == BIDIRECTIONAL:
                self.supervised_from = None
        self.stages = checked(self.stages, self.recipes, self.configs)
        self.measures = different(self.measures)
        for stage in self.stages:
            self.before(stage)

    def config(self, stage: str) -> Path:
        """The configuration of a stage."""
        return self.configs / f"{stage}.yaml"

    def folder(self, stage: str) -> Path:
        """The folder for the runs of a stage."""
        return self.out / stage

    def run(self) -> dict[str, dict[str, float]]:
        """Trains what is not finished and measures each row.

        Returns:
            A row of metrics for each step of the method.

        Raises:
            UserError: if a flag is wrong, before anything is trained; or if a stage fails.
        """
        for stage in self.stages:
            if not self.is_done(stage):
                self._check_flags(stage)
        results = Results(self.out / "results.json")
        rows = {"causal": results.row("causal", self.base(), self.measures, bidirectional=False)}
        if not self.causal:
            rows["bidirectional"] = results.row("bidirectional", self.base(), self.measures)
        for stage in self.stages:
            minutes = self._train(stage)
            row = results.row(stage, self.record(stage).encoder, self.measures)
            rows[row_of(stage)] = {**row, "minutes": minutes}
        return rows

    def base(self) -> str:
        """The decoder that everything starts from.

        Raises:
            UserError: if no configuration names it.
        """
        if self.model_name:
            return self.model_name
        import yaml

        file = self.config(BIDIRECTIONAL)
        if not file.is_file():
            file = self.config(self.stages[0])
        config = yaml.safe_load(file.read_text()) or {}
        name = (config.get("encoder") or {}).get("model_name")
        if not name:
            raise UserError(f"{file} has no encoder.model_name. Name the decoder: --model_name.")
        return str(name)

    def before(self, stage: str) -> str | None:
        """The stage that this one starts from; None for the decoder."""
        return before(stage, self.stages, self.supervised_from)

    def record(self, stage: str) -> StageRecord:
        """The record of what a stage was made from and has left."""
        return StageRecord(self.folder(stage))

    def start(self, stage: str) -> str:
        """What a stage trains: the decoder, or the folder of an earlier stage."""
        earlier = self.before(stage)
        return self.record(earlier).encoder if earlier else self.base()

    def command(self, stage: str) -> list[str]:
        """The command that trains a stage."""
        words = [
            sys.executable,
            str(self.recipes / f"{stage}.py"),
            "--config",
            str(self.config(stage)),
        ]
        words += [START, self.start(stage)]
        words += ["--encoder.bidirectional", str(not self.causal).lower()]
        words += ["--trainer.default_root_dir", str(self.folder(stage))]
        return [*words, *flags_of(stage, self.flags, self.stages)]

    def is_done(self, stage: str) -> bool:
        """Whether a stage was finished by this command, and its inputs have not changed.

        Raises:
            UserError: if it was finished by another command, or its files have changed since.
        """
        record, earlier = self.record(stage), self.before(stage)
        if not record.done:
            return False
        record.refuse_another(self.command(stage)[1:], self._files(stage), earlier is not None)
        return (earlier is None or self.is_done(earlier)) and record.is_of(self._real_start(stage))

    def _real_start(self, stage: str) -> str:
        """What the command starts from; a flag for the stage may override it."""
        words = self.command(stage)
        split = [
            part for word in words for part in (word.split("=", 1) if START in word else [word])
        ]
        return [after for word, after in pairwise(split) if word == START][-1]

    def _files(self, stage: str) -> dict[str, str]:
        """The fingerprints of the files that a stage is made from: its configuration and data."""
        import yaml

        config = yaml.safe_load(self.config(stage).read_text())
        flags = flags_of(stage, self.flags, self.stages)
        named = ("--data.", "--model.")  # `--model.teacher` is a folder too
        given = [after for word, after in pairwise(flags) if word.startswith(named)]
        given += [word for word in flags if word.startswith(named)]
        return {
            **file_contents([str(self.config(stage)), config, flags]),
            **file_contents([config.get("data"), config.get("model"), given], folders=True),
        }

    def _check_flags(self, stage: str) -> None:
        command = [*self.command(stage), "--print_config"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise UserError(f"{stage}: {result.stderr.strip().removeprefix('error: ')}")

    def _train(self, stage: str) -> float:
        """Trains a stage unless it is done; returns the minutes that it took."""
        record = self.record(stage)
        if not self.is_done(stage):
            if record.done:
                print(f"\n{stage}: its inputs have changed; training it again", flush=True)
            started = time.monotonic()
            command = self.command(stage)
            print(f"\n$ python {shlex.join(command[1:])}", flush=True)
            start = encoder_contents(self._real_start(stage))
            checkpoint = record.begin(
                {"command": command[1:], "files": self._files(stage), "start": start}
            )
            if checkpoint:
                print(f"  continuing from {checkpoint}", flush=True)
                command += ["--resume", str(checkpoint)]
            if subprocess.run(command, check=False).returncode:
                raise UserError(
                    f"{stage} did not finish. Run the same command to continue from its last "
                    "checkpoint."
                )
            record.end((time.monotonic() - started) / 60)
        return float(record.done["minutes"])
