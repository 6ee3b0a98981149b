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
from typing import Any, Literal

from llm2vec_pl.errors import UserError
from llm2vec_pl.files import fingerprint, read_json, write_json
from llm2vec_pl.training import still_at
from llm2vec_pl.training.pipeline.contents import encoder_contents, file_contents
from llm2vec_pl.training.pipeline.stage_record import START, StageRecord

Stage = Literal["mntp", "simcse", "supervised"]
STAGES: tuple[Stage, ...] = ("mntp", "simcse", "supervised")
ROWS = {"mntp": "+ MNTP", "simcse": "+ SimCSE", "supervised": "supervised"}


@dataclass
class Pipeline:
    """Runs the recipes of the method's steps, each starting from the result of the one before.

    Each stage is the command that a user would type, in its own process. A finished stage is not
    run again, and an interrupted one continues from its last checkpoint, if its inputs have not
    changed since. If a stage is trained again, so are those that start from it, and whatever has
    changed is measured again. Outdated runs stay on disk, unused.

    Args:
        recipes: the folder with mntp.py, simcse.py and supervised.py.
        configs: the folder with mntp.yaml, simcse.yaml and supervised.yaml.
        out: the folder for the stages' runs and the results.
        model_name: the decoder to start from, any `--encoder.model_name`; by default that of
            mntp.yaml.
        causal: leave out step 1 and MNTP, for comparison: the same decoder with causal attention.
        supervised_from: the stage that supervised training starts from; the paper's best is mntp.
        sts: file of sentence pairs with scores to measure each row on, such as `stsb_test.jsonl`.
        flags: further flags of the recipes, such as `--trainer.devices 8`; for a single stage,
            write `--mntp.trainer.max_steps 100`.
    """

    recipes: Path
    configs: Path
    out: Path
    model_name: str | None = None
    causal: bool = False
    supervised_from: Literal["mntp", "simcse"] = "mntp"
    sts: str | None = None
    flags: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        missing = [str(self.config(s)) for s in self.stages if not self.config(s).is_file()]
        if missing:
            raise UserError(f"--configs {self.configs} lacks {', '.join(missing)}. Write it there.")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages to train; MNTP is for bidirectional decoders."""
        return STAGES[1:] if self.causal else STAGES

    def config(self, stage: Stage) -> Path:
        """The configuration of a stage."""
        return self.configs / f"{stage}.yaml"

    def folder(self, stage: Stage) -> Path:
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
        rows = {"causal": self._measure("causal", self.base(), bidirectional=False)}
        if not self.causal:
            rows["bidirectional"] = self._measure("bidirectional", self.base())
        for stage in self.stages:
            minutes = self._train(stage)
            row = self._measure(stage, self.record(stage).encoder)
            rows[ROWS[stage]] = {**row, "minutes": minutes}
        return rows

    def base(self) -> str:
        """The decoder that everything starts from."""
        if self.model_name:
            return self.model_name
        import yaml

        config = yaml.safe_load(self.config(STAGES[0]).read_text())
        return str(config["encoder"]["model_name"])

    def before(self, stage: Stage) -> Stage | None:
        """The stage that this one starts from; None for the decoder."""
        before: dict[Stage, Stage] = {"simcse": "mntp", "supervised": self.supervised_from}
        return before[stage] if before.get(stage) in self.stages else None

    def record(self, stage: Stage) -> StageRecord:
        """The record of what a stage was made from and has left."""
        return StageRecord(self.folder(stage))

    def start(self, stage: Stage) -> str:
        """What a stage trains: the decoder, or the folder of an earlier stage."""
        before = self.before(stage)
        return self.record(before).encoder if before else self.base()

    def command(self, stage: Stage) -> list[str]:
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
        return [*words, *flags_of(stage, self.flags)]

    def is_done(self, stage: Stage) -> bool:
        """Whether a stage was finished by this command, and its inputs have not changed.

        Raises:
            UserError: if it was finished by another command, or its files have changed since.
        """
        record, before = self.record(stage), self.before(stage)
        if not record.done:
            return False
        record.refuse_another(self.command(stage)[1:], self._files(stage), before is not None)
        return (before is None or self.is_done(before)) and record.is_of(self._real_start(stage))

    def _real_start(self, stage: Stage) -> str:
        """What the command starts from; a flag for the stage may override it."""
        words = self.command(stage)
        split = [
            part for word in words for part in (word.split("=", 1) if START in word else [word])
        ]
        return [after for word, after in pairwise(split) if word == START][-1]

    def _files(self, stage: Stage) -> dict[str, str]:
        """The fingerprints of the files that a stage is made from: its configuration and data."""
        import yaml

        config = yaml.safe_load(self.config(stage).read_text())
        flags = flags_of(stage, self.flags)
        data = [after for word, after in pairwise(flags) if word.startswith("--data.")]
        data += [word for word in flags if word.startswith("--data.")]
        return {
            **file_contents([str(self.config(stage)), config, flags]),
            **file_contents([config.get("data"), data], folders=True),
        }

    def _check_flags(self, stage: Stage) -> None:
        command = [*self.command(stage), "--print_config"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise UserError(f"{stage}: {result.stderr.strip().removeprefix('error: ')}")

    def _train(self, stage: Stage) -> float:
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

    def _measure(self, row: str, model_name: str, **options: Any) -> dict[str, float]:
        """The metrics of an encoder, from the results file if it has them."""
        file = self.out / "results.json"
        results = read_json(file)
        key = {
            "encoder": model_name,
            "contents": encoder_contents(model_name),
            "sts": self.sts,
            "files": file_contents(self.sts or ""),
            "docs": _docs(),
        }
        if results.get(row, {}).get("of") != key:
            from llm2vec_pl.encoder import Encoder
            from llm2vec_pl.evaluation import evaluate

            print(f"measuring {row}", flush=True)
            with still_at(f"measuring {row}"):
                encoder = Encoder.from_pretrained(model_name, **options)
                metrics = evaluate(encoder, sts=self.sts)
            results[row] = {"of": key, "metrics": metrics}
            self.out.mkdir(parents=True, exist_ok=True)
            write_json(file, results)
        return dict(results[row]["metrics"])


def flags_of(stage: Stage, flags: Sequence[str]) -> list[str]:
    """The flags for a stage: those for all, and its own, such as `--mntp.model.x 1`."""
    chosen: list[str] = []
    wanted = True
    for word in flags:
        if word.startswith("--"):
            owner = next((s for s in STAGES if word.startswith(f"--{s}.")), None)
            wanted = owner in (None, stage)
            word = word.replace(f"--{owner}.", "--", 1)
        if wanted:
            chosen.append(word)
    return chosen


def _docs() -> str:
    """The fingerprint of the documentation to retrieve, that of the installed packages."""
    from llm2vec_pl.data import PythonDocs  # imports Lightning, which takes seconds

    return fingerprint(PythonDocs().source())
