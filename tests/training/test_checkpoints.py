import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from trained import quiet_trainer, small_data, small_mntp

from llm2vec_pl.errors import UserError
from llm2vec_pl.training.checkpoint_files import CheckpointFiles
from llm2vec_pl.training.checkpoints import Checkpoints


class Watched(Checkpoints):
    """Notes at which step and batch what was saved."""

    def __init__(self, **options):
        super().__init__(**options)
        self.saved = []

    def _save_last(self, trainer):
        super()._save_last(trainer)
        self.saved.append((trainer.global_step, trainer.fit_loop.epoch_loop.total_batch_idx + 1))


class KeepFirst(Callback):
    """Sends the checkpoint of step 3 to a file of its own."""

    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_step == 3:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "first.ckpt")


def train(llama_folder, tmp_path, callback, **options):
    trainer = quiet_trainer(tmp_path, callback, **options)
    trainer.fit(small_mntp(llama_folder), small_data(tmp_path))
    return trainer


def test_the_last_checkpoint_comes_every_n_steps_and_at_the_end(llama_folder, tmp_path):
    callback = Watched(every_n_steps=2)
    train(llama_folder, tmp_path, callback, max_steps=5)
    assert [step for step, _ in callback.saved] == [2, 4, 5]


class Losses(Callback):
    """Notes epoch, step and loss of each batch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, *args):
        self.seen.append((trainer.current_epoch, trainer.global_step, outputs["loss"].item()))


class StopAfter(Callback):
    """Stops a run at a validation, as EarlyStopping does."""

    def __init__(self, step):
        self.step = step

    def on_validation_end(self, trainer, pl_module):
        trainer.should_stop |= trainer.global_step >= self.step


@pytest.mark.parametrize("ended_by", ["max_steps", "early stopping"])
def test_a_run_that_has_ended_in_mid_epoch_goes_on_there_with_more_steps(
    llama_folder, tmp_path, ended_by
):
    options = {"val_check_interval": 1, "check_val_every_n_epoch": None, "limit_val_batches": 1}
    end = {"max_steps": 2} if ended_by == "max_steps" else {"max_steps": 4}

    def losses(folder, more=(), resume=None, **changes):
        seed_everything(0)
        watch = Losses()
        trainer = quiet_trainer(folder, Checkpoints(), watch, *more, **{**options, **changes})
        data = small_data(tmp_path)
        trainer.fit(small_mntp(llama_folder, schedule="constant"), data, ckpt_path=resume)
        return watch.seen

    whole = losses(tmp_path / "whole", max_steps=4)
    cut = tmp_path / "cut"
    first = losses(cut, [StopAfter(2)] if ended_by == "early stopping" else [], **end)
    rest = losses(cut, resume=next(cut.rglob("last.ckpt")), max_steps=4)
    assert first + rest == whole


def test_gradients_that_are_being_accumulated_are_never_cut_off(llama_folder, tmp_path):
    """Also where validation falls between two optimizer steps."""
    callback = Watched(every_n_steps=1)
    options = {"accumulate_grad_batches": 3, "val_check_interval": 2, "max_steps": 4}
    train(llama_folder, tmp_path, callback, check_val_every_n_epoch=None, **options)
    assert [step for step, _ in callback.saved] == [1, 2, 3, 4]
    assert all(batches == 3 * step for step, batches in callback.saved)


def test_a_checkpoint_comes_after_so_many_minutes(llama_folder, tmp_path):
    callback = Watched(every_n_minutes=1e-9)
    train(llama_folder, tmp_path, callback, max_steps=3)
    assert [step for step, _ in callback.saved] == [1, 2, 3]


def test_the_best_checkpoint_is_that_with_the_lowest_validation_loss(llama_folder, tmp_path):
    callback = Checkpoints(every_n_steps=1)
    train(llama_folder, tmp_path, callback, val_check_interval=2, check_val_every_n_epoch=None)
    best = torch.load(callback.best_model_path, weights_only=True)
    assert Path(callback.best_model_path).name == "best.ckpt"
    assert best["callbacks"][callback.state_key]["best_model_score"] == callback.best_model_score


def test_a_checkpoint_has_the_size_of_the_adapter(llama_folder, tmp_path):
    callback = Checkpoints(every_n_steps=1)
    trainer = train(llama_folder, tmp_path, callback)
    saved = torch.load(Path(callback.dirpath) / "last.ckpt", weights_only=True)
    trained = {n for n, p in trainer.lightning_module.named_parameters() if p.requires_grad}
    assert saved["state_dict"].keys() == trained
    (optimizer,) = saved["optimizer_states"]
    assert optimizer["state"].keys() == trained


def test_checkpoints_written_while_the_next_steps_run_are_of_their_own_step(llama_folder, tmp_path):
    class Slow(CheckpointFiles):
        """Writes when later steps have changed the weights."""

        def save_checkpoint(self, checkpoint, path, storage_options=None):
            time.sleep(0.3)
            super().save_checkpoint(checkpoint, path, storage_options)

    saved = []
    for name, plugin in [("at once", CheckpointFiles()), ("later", AsyncCheckpointIO(Slow()))]:
        folder = tmp_path / name
        folder.mkdir()
        torch.manual_seed(0)
        options = {"max_steps": 5, "limit_val_batches": 0, "plugins": [plugin]}
        trainer = quiet_trainer(folder, KeepFirst(), enable_checkpointing=False, **options)
        trainer.fit(small_mntp(llama_folder), small_data(tmp_path))
        saved.append(torch.load(folder / "first.ckpt", weights_only=True))
    assert saved[0]["global_step"] == saved[1]["global_step"] == 3
    for name, weight in saved[0]["state_dict"].items():
        assert torch.equal(saved[1]["state_dict"][name], weight)


def test_a_fast_dev_run_writes_nothing(llama_folder, tmp_path):
    train(llama_folder, tmp_path, Checkpoints(every_n_steps=1), fast_dev_run=True)
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"every_n_steps": -1}, "every_n_steps"), ({"mode": "least"}, "checkpoint.mode")],
)
def test_settings_that_make_no_sense_are_errors(options, expected):
    with pytest.raises(UserError, match=expected):
        Checkpoints(**options)
