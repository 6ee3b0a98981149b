"""Whole stages beside the authors' llm2vec 0.2.3: quality and time, step by step in turn."""

from __future__ import annotations

import json as json_format
import sys
import tempfile
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.contest import REFERENCE, Worker
from benchmarks.old_folder import copy_as_of_old
from benchmarks.stages.data import Size, write_blocks, write_pairs, write_sentences
from benchmarks.stages.report import Side, StageResult, report
from llm2vec_pl.decoder import locate
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation import STSTask
from llm2vec_pl.files import require_writable

OURS = "llm2vec_pl"
STAGES = ("mntp", "simcse", "supervised")


@dataclass(frozen=True)
class Settings:
    """How a stage is trained, on both sides.

    Args:
        steps: training steps; 0 leaves the stage out.
        batch_size: blocks, sentences or queries per step.
        max_length: tokens per block, or most tokens per text.
        held_out: batches to measure the loss on, before and after.
        learning_rate: the highest learning rate; it falls linearly to 0 at the last step.
        warmup_steps: steps of linear warm-up; below 1, a share of all steps.
    """

    steps: int = 3
    batch_size: int = 8
    max_length: int = 128
    held_out: int = 8
    learning_rate: float = 5e-5
    warmup_steps: float = 0.0


def stages(
    model: str,
    against: str | None = None,
    mntp: Settings = Settings(batch_size=4, max_length=512, learning_rate=2e-4),
    simcse: Settings = Settings(batch_size=32, learning_rate=3e-5),
    supervised: Settings = Settings(batch_size=32, learning_rate=2e-4, warmup_steps=0.1),
    texts: str | None = None,
    sentences: str | None = None,
    pairs: list[str] | None = None,
    sts: str | None = None,
    chain: bool = True,
    lora_rank: int = 16,
    lora_dropout: float = 0.05,
    mask_probability: float = 0.2,
    simcse_temperature: float = 0.05,
    supervised_temperature: float = 0.05,
    simcse_dropout: float = 0.3,
    gradient_checkpointing: bool = False,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    seed: int = 0,
    json: Path | None = None,
) -> None:
    """MNTP, SimCSE and supervised training beside llm2vec 0.2.3: quality and time of each stage.

    Both sides train a LoRA on the same decoder, on the same batches in the same order, with AdamW,
    a linear schedule and gradients clipped at a norm of 1. Each draws its own dropout and hides its
    own tokens. They take turns, a step each, so that a machine that slows down slows both.

    Args:
        model: the decoder: a folder with weights in safetensors, or a name on the hub.
        against: an interpreter that has llm2vec 0.2.3; null trains ours alone.
        mntp: how MNTP is trained.
        simcse: how SimCSE is trained.
        supervised: how supervised training is done.
        texts: texts for MNTP: a folder, a file or a data set; Python's documentation if null.
        sentences: a file with a sentence a line for SimCSE; those of the documentation if null.
        pairs: files with `query`, `positive` and `negative`; pairs of the documentation if null.
        sts: pairs of sentences with scores, to measure each stage on, such as stsb_test.jsonl.
        chain: start SimCSE and supervised training from MNTP; otherwise, all from the decoder.
        lora_rank: rank of the LoRA.
        lora_dropout: dropout of the LoRA.
        mask_probability: share of the tokens that MNTP hides.
        simcse_temperature: divides the similarities in SimCSE.
        supervised_temperature: divides them in supervised training.
        simcse_dropout: dropout of attention weights in SimCSE.
        gradient_checkpointing: compute activations twice, on both sides.
        precision: precision of the computation; the weights are in float32.
        seed: seed of dropout, masks and new LoRAs.
        json: file for all results, the losses and seconds of each step included; written anew
            after each stage.
    """
    if lora_rank < 1:
        raise UserError(f"--lora_rank expects at least 1, but got {lora_rank}: both train a LoRA.")
    given = {"mntp": mntp, "simcse": simcse, "supervised": supervised}
    # The command line hands over dictionaries.
    settings = {k: Settings(**v) if isinstance(v, dict) else v for k, v in given.items()}
    common = {
        "lora_rank": lora_rank,
        "lora_dropout": lora_dropout,
        "mask_probability": mask_probability,
        "gradient_checkpointing": gradient_checkpointing,
        "precision": precision,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "seed": seed,
    }
    own: dict[str, dict[str, Any]] = {
        "mntp": {"temperature": None, "attention_dropout": None},
        "simcse": {"temperature": simcse_temperature, "attention_dropout": simcse_dropout},
        "supervised": {"temperature": supervised_temperature, "attention_dropout": None},
    }
    data = {"mntp": texts, "simcse": sentences, "supervised": pairs or []}
    task = STSTask.read(sts) if sts else None
    results: list[StageResult] = []
    if json:
        require_writable(json)
    with tempfile.TemporaryDirectory() as place:
        contest = _Contest(Path(place), locate(model).base, against, task, chain)
        for stage in STAGES:
            if settings[stage].steps:
                job = {**common, **own[stage], **asdict(settings[stage]), "stage": stage}
                results.append(contest.stage(job, data[stage]))
                _write(json, model, results)
                report(results[-1:], task)
        if len(results) > 1:
            report(results, task)


def _write(json: Path | None, model: str, results: list[StageResult]) -> None:
    """Writes what is known so far."""
    if json:
        content = [{**result.job, "sides": result.sides_as_json()} for result in results]
        json.write_text(json_format.dumps({"model": model, "stages": content}, indent=1) + "\n")


class _Contest:
    """The sides, and where they keep what they have trained.

    Args:
        folder: for everything that is written.
        model: the decoder's folder.
        against: the interpreter of the other side, if there is one.
        task: pairs whose sentences each stage embeds.
        chained: whether later stages start from MNTP.
    """

    def __init__(
        self, folder: Path, model: str, against: str | None, task: STSTask | None, chained: bool
    ) -> None:
        self.folder = folder
        self.chained = chained
        self.task = task
        self.models = {OURS: model}
        self.pythons = {OURS: (sys.executable, "ours.py")}
        if against:
            old = folder / "model"
            copy_as_of_old(model, old)
            self.models[REFERENCE] = str(old)
            self.pythons[REFERENCE] = (against, "reference.py")
        self.sentences = list(dict.fromkeys(chain(task.first, task.second))) if task else []
        (folder / "texts.json").write_text(json_format.dumps(self.sentences))

    def stage(self, job: dict[str, Any], data: Any) -> StageResult:
        """Trains a stage on all sides."""
        files = self._data(job, data)  # whose `held_out` takes the place of the job's number
        workers = {}
        try:
            for name, (python, file) in self.pythons.items():
                side = Path(__file__).parent / file
                mine = {**job, **files, **self._own(name, job["stage"])}
                folder = self.folder / name / job["stage"]
                workers[name] = Worker(name, python, side, mine, folder, "stages/turns.py")
            steps = [
                {name: worker.measure() for name, worker in workers.items()}
                for _ in range(job["steps"])
            ]
            last = {name: worker.measure() for name, worker in workers.items()}
        finally:
            for worker in workers.values():
                worker.close()
        sides = {
            name: Side(
                before=worker.first["held_out"],
                after=last[name]["held_out"],
                losses=[step[name]["loss"] for step in steps],
                seconds=[step[name]["seconds"] for step in steps],
                peak=steps[-1][name]["peak"],
                embeddings=Path(self._own(name, job["stage"])["embeddings"]),
                sentences=self.sentences,
            )
            for name, worker in workers.items()
        }
        starts = self._own(OURS, job["stage"])["start"]
        result = StageResult(job, sides, from_decoder=starts is None)
        for trained in sides.values():
            trained.measure(self.task)
        return result

    def _own(self, name: str, stage: str) -> dict[str, Any]:
        """What a job says to one side."""
        folder = self.folder / name / stage
        folder.mkdir(parents=True, exist_ok=True)
        mntp = self.folder / name / "mntp" / "saved"
        follows = self.chained and stage != "mntp" and mntp.is_dir()
        return {
            "model": self.models[name],
            "start": str(mntp) if follows else None,
            "save": str(folder / "saved"),
            "texts": str(self.folder / "texts.json"),
            "embeddings": str(folder / "embeddings.npy"),
        }

    def _data(self, job: dict[str, Any], data: Any) -> dict[str, str]:
        folder = self.folder / "data" / job["stage"]
        folder.mkdir(parents=True)
        size = Size(job["steps"], job["batch_size"], job["held_out"])
        if job["stage"] == "simcse":
            return write_sentences(folder, data, size)
        if job["stage"] == "supervised":
            return write_pairs(folder, data, size)
        encoder = Encoder(self.models[OURS], max_length=job["max_length"])
        return write_blocks(folder, encoder, data, size, job["mask_probability"])
