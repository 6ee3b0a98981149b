"""Runs that are killed and resumed, with real trainers, on blocks in memory and on streams."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from forked import spawn
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from silent import SILENT

from llm2vec_pl.data import Wikipedia

Seen = list[tuple[int, Any, float]]  # epoch, rows of tokens, loss


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for split, size in [("train", 15), ("valid", 5)]:
        rows = [{"text": f"{split} article {i} is one. " * (i % 5 + 1)} for i in range(size)]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


class Recorder(LightningModule):
    """Keeps the batches that it is given with their losses, which depend on all before."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.encoder = SimpleNamespace(tokenizer=tokenizer)
        self.layer = torch.nn.Linear(1, 1)
        self.seen: Seen = []
        self.validated: list[Any] = []

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        ids = batch["input_ids"]
        loss = self.layer(ids.float().mean().view(1, 1) / 300).pow(2).mean()
        self.seen.append((self.current_epoch, ids.tolist(), loss.item()))
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.validated += batch["input_ids"].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class Kill(Callback):
    """Ends a run as a killed process would: in the middle of an epoch, without its end's hooks."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batches:
            raise KeyboardInterrupt


def fit(
    data: Wikipedia, tokenizer: Any, folder: Path, kill: int = 0, resume: Path | None = None, **more
) -> Recorder:
    """A run of three epochs, which may be killed when so many batches were trained on."""
    seed_everything(0, verbose=False)
    module = Recorder(tokenizer)
    saved = ModelCheckpoint(
        folder, "{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False
    )
    options = {"max_epochs": 3, **SILENT, **more}
    trainer = Trainer(callbacks=[saved, *([Kill(kill)] if kill else [])], **options)
    try:
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        assert kill
    return module


def texts(folder: Path, streaming: bool, num_workers: int = 0, batch_size: int = 4) -> Wikipedia:
    return Wikipedia(
        str(folder),
        max_length=16,
        batch_size=batch_size,
        streaming=streaming,
        num_workers=num_workers,
        shuffle_buffer=7,
    )


@pytest.mark.parametrize(
    ("streaming", "num_workers", "accumulate"),
    [
        (False, 0, 1),
        (True, 0, 1),
        (True, 0, 2),
        pytest.param(False, 2, 2, marks=pytest.mark.slow),
        pytest.param(True, 2, 1, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_with_the_losses_of_one_that_was_not(
    folder: Path, tokenizer, tmp_path: Path, streaming: bool, num_workers: int, accumulate: int
) -> None:
    def run(name: str, **options: Any) -> Seen:
        data = texts(folder, streaming, num_workers)
        options["accumulate_grad_batches"] = accumulate
        return fit(data, tokenizer, tmp_path / name, **options).seen

    whole = run("whole")
    per_epoch = sum(epoch == 0 for epoch, *_ in whole)
    assert len(whole) == 3 * per_epoch
    for kill in (accumulate, per_epoch + 5, 2 * per_epoch):
        before = run(f"run{kill}", kill=kill)
        assert before == whole[:kill]
        steps = [int(file.stem[len("step=") :]) for file in (tmp_path / f"run{kill}").iterdir()]
        after = run(f"more{kill}", resume=tmp_path / f"run{kill}" / f"step={max(steps)}.ckpt")
        again = len(before) + len(after) - len(whole)
        assert 0 <= again < accumulate  # batches whose gradient died with the process
        assert after == whole[kill - again :]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("at_epoch_end", "options"),
    [
        (True, {"max_steps": 19, "max_epochs": -1}),
        (False, {"max_steps": 19, "max_epochs": -1}),
        (True, {"limit_val_batches": 0}),
        (True, {"limit_train_batches": 5, "max_steps": 9, "max_epochs": -1}),
        (False, {"val_check_interval": 4, "check_val_every_n_epoch": None}),
    ],
)
def test_checkpoints_at_the_end_of_epochs_and_validations_are_gone_on_from(
    folder: Path,
    tokenizer,
    tmp_path: Path,
    streaming: bool,
    at_epoch_end: bool,
    options: dict[str, Any],
) -> None:
    """At the end of an epoch or of a validation Lightning counts in ways of its own."""

    def run(resume: Path | None = None) -> Seen:
        checkpoint = ModelCheckpoint(
            tmp_path / "saved",
            "{step}",
            save_top_k=-1,
            enable_version_counter=False,
            save_on_train_epoch_end=at_epoch_end,
        )
        seed_everything(0, verbose=False)
        module = Recorder(tokenizer)
        trainer = Trainer(callbacks=[checkpoint], **{"max_epochs": 2, **SILENT, **options})
        trainer.fit(module, texts(folder, streaming), ckpt_path=resume, weights_only=True)
        return module.seen

    whole = run()
    copies = shutil.copytree(tmp_path / "saved", tmp_path / "copies")
    for file in copies.iterdir():
        step = int(file.stem[len("step=") :])
        assert run(file) == whole[step:]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_checkpoint_of_a_run_that_failed_repeats_the_batch_it_failed_on(
    folder: Path, tokenizer, tmp_path: Path, streaming: bool
) -> None:
    class Failing(Recorder):
        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            if len(self.seen) == 4:
                raise RuntimeError("out of memory")
            return super().training_step(batch, index)

    whole = fit(texts(folder, streaming), tokenizer, tmp_path / "whole").seen
    seed_everything(0, verbose=False)
    trainer = Trainer(callbacks=[OnExceptionCheckpoint(tmp_path, "failed")], **SILENT)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.fit(Failing(tokenizer), texts(folder, streaming))
    more = fit(
        texts(folder, streaming), tokenizer, tmp_path / "more", resume=tmp_path / "failed.ckpt"
    )
    assert more.seen == whole[4:]


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_blocks_go_on_with_another_batch_size_at_the_very_row(
    folder: Path, tokenizer, tmp_path: Path, batch_size: int
) -> None:
    def rows(seen: Seen) -> list[list[int]]:
        return [row[:9] for epoch, batch, _ in seen for row in batch if epoch == 1]

    def run(name: str, batch_size: int = 4, **options: Any) -> Recorder:
        data = texts(folder, False, batch_size=batch_size)
        return fit(data, tokenizer, tmp_path / name, **options)

    whole = run("whole").seen
    per_epoch = len(whole) // 3
    before = run("run", kill=per_epoch + 5).seen
    after = run("more", batch_size, resume=tmp_path / "run" / f"step={per_epoch + 5}.ckpt")
    assert rows(before) + rows(after.seen) == rows(whole)
    assert {epoch for epoch, *_ in after.seen} == {1, 2}
    last = [batch for epoch, batch, _ in after.seen if epoch == 2]
    assert [len(batch) for batch in last[:-1]] == [batch_size] * (len(last) - 1)


def test_overfitting_a_batch_of_blocks_repeats_it(folder: Path, tokenizer, tmp_path: Path) -> None:
    seen = fit(texts(folder, False), tokenizer, tmp_path, overfit_batches=1).seen
    assert len(seen) == 3
    assert len({str(batch) for _, batch, _ in seen}) == 1


def test_validating_alone_sees_all_blocks(folder: Path, tokenizer) -> None:
    found = []
    for streaming in (False, True):
        module = Recorder(tokenizer)
        Trainer(**SILENT).validate(module, texts(folder, streaming), verbose=False)
        found.append(sorted(module.validated))
    assert found[0] == found[1]
    assert len(found[0]) > 5


def train_on_a_rank(rank: int, tokenizer: Any, folder: Path, streaming: bool, resume: bool) -> None:
    data = texts(folder, streaming, int(streaming), batch_size=2 if streaming else 4)
    options: dict[str, Any] = {"devices": 2, "strategy": "ddp", "limit_val_batches": 0}
    if streaming:  # ranks may end up a few blocks apart
        options.update(max_steps=6, max_epochs=-1)
    name = "more" if resume else "whole"
    checkpoint = folder.parent / "whole" / "step=3.ckpt" if resume else None
    seen = fit(data, tokenizer, folder.parent / name, resume=checkpoint, **options).seen
    (folder.parent / f"{name}-{rank}.json").write_text(json.dumps(seen))


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_two_ranks_go_on_each_with_its_own_batches(
    folder: Path, tokenizer, tmp_path: Path, streaming: bool
) -> None:
    for resume in (False, True):
        arguments = (tokenizer, folder, streaming, resume)
        spawn(train_on_a_rank, arguments, nprocs=2)
    ranks = []
    for rank in range(2):
        whole, more = (
            json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for name in ("whole", "more")
        )
        assert more == whole[3:]
        assert len(more) >= 3
        ranks.append(whole)
    assert ranks[0] != ranks[1]
    if not streaming:
        alone = fit(texts(folder, False, batch_size=8), tokenizer, tmp_path / "one").seen
        for (_, batch, _), *shares in zip(alone, *ranks, strict=True):
            rows = [row[:9] for _, share, _ in shares for row in share]
            assert sorted(rows) == sorted(row[:9] for row in batch)
