"""A line a minute on how a run goes, with a clock that the steps move on."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import ProgressBar
from torch.utils.data import DataLoader
from trained import quiet_trainer, small_mntp

from llm2vec_pl.objectives import MNTP
from llm2vec_pl.training import command
from llm2vec_pl.training.checkpoints import Checkpoints
from llm2vec_pl.training.console import RunProgressBar
from llm2vec_pl.training.progress_lines import ProgressLines

LINE = re.compile(
    r"step (?P<step>[\d,]+)(?: of (?P<steps>[\d,]+))?, train/loss [\d.]+, (?P<rate>[\d,]+) tokens/s"
    r"(?:, (?P<left>[\d a-z]+) left)?(?:, [\d.]+ GiB resident)?"
)
TEXTS = ["a text about rivers", "and another one, which is longer"]


class Clock:
    now = 5000.0

    def __call__(self) -> float:
        return self.now


class Timed(MNTP):
    """A batch takes ten seconds, one of a validation a hundred."""

    clock: Clock

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.clock.now += 10.0
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.clock.now += 100.0
        super().validation_step(batch, batch_idx)


def fit(
    model: str,
    folder: Path,
    resume: Path | None = None,
    off: bool = False,
    validations: int = 0,
    **options: Any,
) -> tuple[list[str], int]:
    """The lines of a fit on batches of one size, and how many tokens each batch has."""
    said: list[str] = []
    clock = Clock()
    lines = ProgressLines(clock=clock, write=said.append)
    if off:
        lines.disable()
    trainer = quiet_trainer(folder, lines, Checkpoints(every_n_steps=4), **options)
    module = small_mntp(model, Timed, mask_probability=0.5)
    module.clock = clock
    trainer.fit(module, *loaders(module, validations), ckpt_path=resume)
    return said, int(batch_of(module)["attention_mask"].sum())


def batch_of(module: MNTP) -> dict[str, Any]:
    return {k: v for k, v in module.encoder.tokenize(TEXTS).items() if k != "pooling_mask"}


def loaders(module: MNTP, validations: int = 0) -> list[DataLoader]:
    counts = [100, validations] if validations else [100]
    return [DataLoader([batch_of(module)] * count, batch_size=None) for count in counts]


def parsed(lines: list[str], name: str) -> list[str]:
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), lines
    return [match[name] for match in found if match]


def test_there_is_a_line_after_the_first_step_then_every_minute_and_at_the_end(
    llama_folder, tmp_path
):
    lines, tokens = fit(llama_folder, tmp_path, max_steps=21)
    assert parsed(lines, "step") == ["1", "7", "13", "19", "21"]
    assert set(parsed(lines, "steps")) == {"21"}
    assert parsed(lines, "left") == ["3 min", "2 min", "80 s", "20 s", None]
    assert set(parsed(lines, "rate")) == {f"{tokens / 10:.0f}"}


def test_a_step_of_several_batches_is_one_step(llama_folder, tmp_path):
    lines, tokens = fit(llama_folder, tmp_path, max_steps=7, accumulate_grad_batches=4)
    assert parsed(lines, "step") == ["1", "3", "5", "7"]
    assert parsed(lines, "left") == ["4 min", "3 min", "80 s", None]
    assert set(parsed(lines, "rate")) == {f"{tokens / 10:.0f}"}


def test_validations_do_not_count_in_tokens_per_second(llama_folder, tmp_path):
    """A validation after each second step, of two batches, takes 200 s."""
    lines, tokens = fit(llama_folder, tmp_path, validations=2, max_steps=10, val_check_interval=2)
    validating = [line for line in lines if line.startswith("validating")]
    training = [line for line in lines if line not in validating]
    assert set(parsed(training, "rate")) == {f"{tokens / 10:.0f}"}
    assert set(validating) == {"validating: batch 1 of 2", "validating: batch 2 of 2"}
    steps, left = parsed(training, "step"), parsed(training, "left")
    # Eight steps after the first take 80 s, and the four validations before the ninth 800 s.
    assert left[steps.index("9")] == f"{round((80 + 800) / 8 / 60)} min"


def test_a_resumed_run_counts_from_its_step(llama_folder, tmp_path):
    fit(llama_folder, tmp_path, max_steps=4)
    last = next(tmp_path.rglob("last.ckpt"))
    lines, tokens = fit(llama_folder, tmp_path, last, max_steps=12)
    assert parsed(lines, "step") == ["5", "11", "12"]
    assert parsed(lines, "left") == ["70 s", "10 s", None]
    assert set(parsed(lines, "rate")) == {f"{tokens / 10:.0f}"}


def test_a_bar_that_is_off_says_nothing(llama_folder, tmp_path):
    lines, _ = fit(llama_folder, tmp_path, off=True, max_steps=3)
    assert lines == []


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_rank_prints(rank):
    lines = ProgressLines()
    lines.setup(SimpleNamespace(is_global_zero=rank == 0), None, "fit")  # type: ignore[arg-type]
    assert lines._is_enabled == (rank == 0)


def test_a_validation_by_itself_tells_every_minute_how_far_it_is(llama_folder, tmp_path):
    said: list[str] = []
    module = small_mntp(llama_folder, Timed)
    module.clock = Clock()
    lines = ProgressLines(clock=module.clock, write=said.append, seconds=150)
    trainer = quiet_trainer(tmp_path, lines, limit_val_batches=5)
    trainer.validate(module, loaders(module)[0], verbose=False)
    assert said == ["validating: batch 2 of 5", "validating: batch 4 of 5"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_command_draws_a_bar_in_a_terminal_and_prints_lines_elsewhere(terminal, monkeypatch):
    monkeypatch.setattr(command, "on_terminal", lambda: terminal)
    options = dict.fromkeys(("enable_checkpointing", "logger", "enable_progress_bar"))
    added = command._default_callbacks(options, {})
    assert isinstance(added[ProgressBar], RunProgressBar if terminal else ProgressLines)
    assert ProgressBar not in command._default_callbacks(
        {**options, "enable_progress_bar": False}, {}
    )
