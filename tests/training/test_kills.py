"""Runs that are killed, at any moment, and go on as if nothing had happened."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from first_cases import slow_and_exhaustive
from killed_runs import Run, rows
from saved_models import save_model, small_llama

from llm2vec_pl.encoder.encoder import Encoder

STEPS = 24
KILLS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(save_model(small_llama(), tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture(scope="module")
def articles(tmp_path_factory) -> str:
    lines = [f"Article {i} is about {'rivers ' * (i % 5)}and {i} lakes." for i in range(300)]
    path = tmp_path_factory.mktemp("data") / "articles.txt"
    path.write_text("\n".join(lines))
    return str(path)


def flags(model: str, *more: str) -> list[str]:
    return [
        *f"""--encoder.model_name {model} --encoder.lora_rank 4 --trainer.accelerator cpu
        --trainer.max_steps {STEPS} --trainer.log_every_n_steps 1
        --trainer.enable_progress_bar false --trainer.enable_model_summary false
        --trainer.check_val_every_n_epoch null --trainer.val_check_interval 6
        --checkpoint.every_n_steps 2""".split(),
        *(word for words in more for word in words.split()),
    ]


def blocks(articles: str) -> str:
    return f"--data Wikipedia --data.path {articles} --data.max_length 32 --data.batch_size 4"


CASES = {
    "blocks": ("mntp.py", 1, ""),
    "two workers, accumulating": (
        "mntp.py",
        1,
        "--data.num_workers 2 --trainer.accumulate_grad_batches 2",
    ),
    "a stream": ("mntp.py", 1, "--data.streaming true"),
    "two ranks": ("mntp.py", 2, "--trainer.strategy ddp --trainer.devices 2"),
}


@pytest.mark.parametrize("case", slow_and_exhaustive(CASES))
def test_five_kills_change_not_a_bit_of_the_losses(case, folder, articles, tmp_path: Path):
    recipe, ranks, more = CASES[case]
    given = flags(folder, blocks(articles), more)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for place in (whole, killed):
        place.mkdir()
    assert Run(recipe, given, whole, ranks).wait() == [0] * ranks, output(whole)
    moments = random.Random(case)
    left = killed / "runs" / "mntp" / "version_0"
    for step in sorted(moments.sample(range(STEPS - 2), KILLS)):
        run = Run(recipe, [*given, "--resume", "last"], killed, ranks)
        wait_for(lambda step=step: max(rows(left, "train/loss"), default=-1) >= step)
        time.sleep(moments.uniform(0, 0.1))  # anywhere in a step, or while a checkpoint is written
        run.kill()
    assert Run(recipe, [*given, "--resume", "last"], killed, ranks).wait() == [0] * ranks
    assert output(killed).count("Restored all states") >= 2
    assert_same_losses(killed, whole)


def assert_same_losses(resumed: Path, whole: Path) -> None:
    """A kill may lose the log of the very step it came in, but no other."""
    run = Path("runs", "mntp", "version_0")
    for column in ("train/loss", "val/loss"):
        expected, found = rows(whole / run, column), rows(resumed / run, column)
        expected.pop(STEPS, None)  # the validation after the end
        found.pop(STEPS, None)
        assert len(expected) >= (STEPS if column == "train/loss" else STEPS // 6)
        assert found.items() <= expected.items(), output(resumed)
        assert len(expected) - len(found) <= KILLS
    assert (resumed / run / "encoder").is_dir()


def output(folder: Path) -> str:
    return (folder / "output.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_before_the_run_stops(number, folder, articles, tmp_path):
    given = flags(folder, blocks(articles), "--checkpoint.every_n_steps 0")
    run = Run("mntp.py", [*given, "--trainer.max_steps", "10000"], tmp_path)
    left = tmp_path / "runs" / "mntp" / "version_0"
    wait_for(lambda: len(rows(left, "train/loss")) > 3)
    run.send(number)
    assert run.wait() == [128 + number]
    assert (left / "checkpoints" / "last.ckpt").is_file()
    assert not (left / "encoder").exists()
    assert "--resume last" in output(tmp_path)


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_others_and_the_run_goes_on(folder, articles, tmp_path):
    given = flags(folder, blocks(articles), "--trainer.strategy ddp --trainer.devices 2")
    run = Run("mntp.py", [*given, "--trainer.max_steps", "10000"], tmp_path, ranks=2)
    left = tmp_path / "runs" / "mntp" / "version_0"
    wait_for(lambda: len(rows(left, "train/loss")) > 3)
    run.processes[1].kill()
    assert all(run.wait(60)), "both ranks end, with an error"
    more = [*given, "--resume", "last"]
    assert Run("mntp.py", more, tmp_path, ranks=2).wait() == [0, 0], output(tmp_path)
    assert len(rows(left, "train/loss")) == STEPS


@pytest.mark.slow
def test_slurms_signal_saves_and_requeues_between_two_steps(
    folder, articles, tmp_path, monkeypatch
):
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $@ > {tmp_path}/requeued\n")
    (tmp_path / "scontrol").chmod(0o755)
    slurm = {"JOB_ID": "7", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}
    environment = {f"SLURM_{name}": value for name, value in slurm.items()}
    environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    given = flags(folder, blocks(articles), "--checkpoint.every_n_steps 0")
    steps = ["--trainer.max_steps", "10000"]
    run = Run("mntp.py", [*given, *steps], tmp_path, environment=environment)
    left = tmp_path / "runs" / "mntp" / "version_0"
    wait_for(lambda: len(rows(left, "train/loss")) > 3)
    run.send(signal.SIGUSR1)
    assert run.wait() == [128 + signal.SIGUSR1], output(tmp_path)
    assert (tmp_path / "requeued").read_text().split() == ["requeue", "7"]
    stopped_after = len(rows(left, "train/loss"))
    steps = ["--trainer.max_steps", str(stopped_after + 2), "--resume", "last"]
    assert Run("mntp.py", [*given, *steps], tmp_path, environment=environment).wait() == [0]
    assert len(rows(left, "train/loss")) == stopped_after + 2


@pytest.mark.exhaustive
def test_a_run_goes_on_under_another_strategy_and_number_of_ranks(folder, articles, tmp_path):
    """DDP on two ranks, FSDP2 in one file, FSDP2 in shards, one device: as one device all along."""
    stages = [
        (2, "--trainer.strategy ddp"),
        (2, "--trainer.strategy fsdp2"),
        (2, SHARDS),
        (1, ""),
    ]
    constant = "--model.schedule constant --encoder.lora_dropout 0 --model.mask_probability 1"
    given = flags(folder, blocks(articles), constant, "--model.masking all")
    alone, parts = tmp_path / "alone", tmp_path / "parts"
    for place in (alone, parts):
        place.mkdir()
    one = ["--data.batch_size", "8"]
    assert Run("mntp.py", [*given, *one], alone).wait() == [0], output(alone)
    for i, (ranks, strategy) in enumerate(stages):
        more = [*strategy.split(), "--trainer.devices", str(ranks), "--resume", "last"]
        more += ["--data.batch_size", str(8 // ranks), "--trainer.max_steps", str(6 * (i + 1))]
        assert Run("mntp.py", [*given, *more], parts, ranks).wait() == [0] * ranks, output(parts)
    left = Path("runs", "mntp", "version_0")
    expected, found = rows(alone / left, "train/loss"), rows(parts / left, "train/loss")
    assert found.keys() == expected.keys()
    for step, loss in expected.items():
        assert float(found[step]) == pytest.approx(float(loss), abs=1e-5), step


SHARDS = "--trainer.strategy FSDP2 --trainer.strategy.save_distributed_checkpoint true"


@pytest.mark.slow
def test_shards_become_the_folder_of_a_finished_run(folder, articles, tmp_path):
    more = f"{SHARDS} --trainer.devices 2 --trainer.max_steps 6"
    given = flags(folder, blocks(articles), more)
    assert Run("mntp.py", given, tmp_path, ranks=2).wait() == [0, 0], output(tmp_path)
    left = tmp_path / "runs" / "mntp" / "version_0"
    assert (left / "checkpoints" / "last.ckpt").is_dir()
    arguments = [str(left / "checkpoints" / "best.ckpt"), "--out", str(tmp_path / "again")]
    assert Run("consolidate.py", arguments, tmp_path).wait() == [0], output(tmp_path)
    texts = ["a text", "another one"]
    first = Encoder.from_pretrained(left / "encoder").encode(texts)
    assert torch.equal(Encoder.from_pretrained(tmp_path / "again").encode(texts), first)
