"""From decoder to encoder: the recipes one after the other, and what each of them brought."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llm2vec_pl.checkpoint import write_json
from llm2vec_pl.errors import UserError
from llm2vec_pl.source import ENCODER, newest_run, read_json

Stage = Literal["mntp", "simcse", "supervised"]
STAGES: tuple[Stage, ...] = ("mntp", "simcse", "supervised")
ROWS = {"mntp": "+ MNTP", "simcse": "+ SimCSE", "supervised": "supervised"}
DONE = "done.json"


@dataclass
class Pipeline:
    """Runs the recipes of the method's steps, each from what the one before has left.

    Each stage is the command that a user would give, in a process of its own. What is finished is
    not run again; what was interrupted goes on from its last checkpoint.

    Args:
        recipes: the folder with mntp.py, simcse.py and supervised.py.
        configs: the folder with mntp.yaml, simcse.yaml and supervised.yaml.
        out: where the stages' runs and the results go.
        model_name: the decoder to start from, any `--encoder.model_name`; that of mntp.yaml if
            null.
        causal: leave out step 1 and MNTP, to compare: the same decoder with causal attention.
        supervised_from: the stage that supervised training starts from; the paper's best is mntp.
        sts: pairs of sentences with scores to measure each row on, as `stsb_test.jsonl`.
        flags: further flags of the recipes, as `--trainer.devices 8`; for one stage only when
            written `--mntp.trainer.max_steps 100`.
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
            raise UserError(f"--configs {self.configs} lacks {', '.join(missing)}.")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What is trained; MNTP is for bidirectional decoders."""
        return STAGES[1:] if self.causal else STAGES

    def config(self, stage: Stage) -> Path:
        """The configuration of a stage."""
        return self.configs / f"{stage}.yaml"

    def folder(self, stage: Stage) -> Path:
        """Where the runs of a stage go."""
        return self.out / stage

    def run(self) -> dict[str, dict[str, float]]:
        """Trains what is not finished and measures each row.

        Returns:
            A row of metrics for each step of the method.

        Raises:
            UserError: if a flag is wrong, before anything is trained; or if a stage fails.
        """
        open_stages = [stage for stage in self.stages if not self.is_done(stage)]
        for stage in open_stages:
            self._check_flags(stage)
        rows = {"causal": self._measure("causal", self.base(), bidirectional=False)}
        if not self.causal:
            rows["bidirectional"] = self._measure("bidirectional", self.base())
        for stage in self.stages:
            minutes = self._train(stage)
            row = self._measure(stage, str(newest_run(self.folder(stage))))
            rows[ROWS[stage]] = {**row, "minutes": minutes}
        return rows

    def base(self) -> str:
        """The decoder that all starts from."""
        if self.model_name:
            return self.model_name
        import yaml

        config = yaml.safe_load(self.config(STAGES[0]).read_text())
        return str(config["encoder"]["model_name"])

    def start(self, stage: Stage) -> str:
        """What a stage trains: the decoder, or the folder of an earlier stage."""
        before = {"mntp": None, "simcse": "mntp", "supervised": self.supervised_from}[stage]
        if before not in self.stages:
            return self.base()
        return str(newest_run(self.folder(before)))  # type: ignore[arg-type]

    def command(self, stage: Stage) -> list[str]:
        """The command that trains a stage."""
        words = [
            sys.executable,
            str(self.recipes / f"{stage}.py"),
            "--config",
            str(self.config(stage)),
        ]
        words += ["--encoder.model_name", self.start(stage)]
        words += ["--encoder.bidirectional", str(not self.causal).lower()]
        words += ["--trainer.default_root_dir", str(self.folder(stage))]
        return [*words, *flags_of(stage, self.flags)]

    def is_done(self, stage: Stage) -> bool:
        """Whether a stage was finished, by this command.

        Raises:
            UserError: if it was finished by another one.
        """
        done = read_json(self.folder(stage) / DONE)
        if not done:
            return False
        before, now = done["command"], self.command(stage)[1:]
        if before != now:
            raise UserError(
                f"{self.folder(stage)} was trained by another command:\n  {shlex.join(before)}\n"
                f"but this one asks for\n  {shlex.join(now)}\nName another folder with --out, or "
                "delete that one."
            )
        return True

    def _check_flags(self, stage: Stage) -> None:
        command = [*self.command(stage), "--print_config"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise UserError(f"{stage}: {result.stderr.strip().removeprefix('error: ')}")

    def _train(self, stage: Stage) -> float:
        """Trains a stage unless it is done; the minutes that it took."""
        if not self.is_done(stage):
            started = time.monotonic()
            command = self.command(stage)
            print(f"\n$ python {shlex.join(command[1:])}", flush=True)
            checkpoint = interrupted(self.folder(stage))
            if checkpoint:
                print(f"  going on from {checkpoint}", flush=True)
                command += ["--resume", str(checkpoint)]
            if subprocess.run(command, check=False).returncode:
                raise UserError(
                    f"{stage} did not finish. The same command goes on from its last checkpoint."
                )
            minutes = (time.monotonic() - started) / 60
            done = {"command": self.command(stage)[1:], "minutes": minutes}
            write_json(self.folder(stage) / DONE, done)
        return float(read_json(self.folder(stage) / DONE)["minutes"])

    def _measure(self, row: str, model_name: str, **options: Any) -> dict[str, float]:
        """The metrics of an encoder, from the results' file where they are there."""
        file = self.out / "results.json"
        results = read_json(file)
        key = {"encoder": model_name, "sts": self.sts}
        if results.get(row, {}).get("of") != key:
            from llm2vec_pl.encoder import Encoder
            from llm2vec_pl.evaluation.summary import evaluate

            print(f"measuring {row}", flush=True)
            encoder = Encoder.from_pretrained(model_name, **options)
            results[row] = {"of": key, "metrics": evaluate(encoder, sts=self.sts)}
            self.out.mkdir(parents=True, exist_ok=True)
            write_json(file, results)
        return dict(results[row]["metrics"])


def flags_of(stage: Stage, flags: Sequence[str]) -> list[str]:
    """The flags for a stage, of those for all and those for one, such as `--mntp.model.x 1`."""
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


def interrupted(folder: Path) -> Path | None:
    """The last checkpoint of a recipe's newest run, which has not left an encoder."""
    runs = [run for run in folder.glob("version_*") if not (run / ENCODER).exists()]
    checkpoints = [run / "checkpoints" / "last.ckpt" for run in runs]
    there = [path for path in checkpoints if path.is_file()]
    return max(there, key=lambda path: path.stat().st_mtime, default=None)
