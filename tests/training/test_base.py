"""What a run was trained on, when it goes on, is repeated, or becomes an encoder's folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from forked import run_recipe
from trained import articles, quiet_trainer, small_data

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.folder import save_encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import MNTP
from llm2vec_pl.training.consolidation import consolidate


def stage(start: str, folder: Path) -> Path:
    """A stage that is another one each time."""
    encoder = Encoder(start, lora_rank=4).load()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return save_encoder(encoder, folder)


@pytest.fixture
def trained(llama_folder: str, tmp_path: Path) -> Path:
    """A run on the first of two stages, in the layout of the recipes."""
    first = stage(llama_folder, tmp_path / "mntp" / "version_0" / "encoder")
    stage(llama_folder, tmp_path / "other" / "encoder")
    run = tmp_path / "simcse" / "version_0"
    trainer = quiet_trainer(tmp_path, max_steps=2)
    trainer.checkpoint_callback.dirpath = str(run / "checkpoints")
    objective = MNTP(Encoder(str(first), lora_rank=4, max_length=32))
    trainer.fit(objective, small_data(tmp_path))
    config = {
        "encoder": {"model_name": str(tmp_path / "mntp"), "lora_rank": 4, "max_length": 32},
        "trainer": {"default_root_dir": str(tmp_path / "simcse")},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


def test_a_run_does_not_go_on_with_another_base(trained, tmp_path):
    last = trained / "checkpoints" / "last.ckpt"
    for name, refused in (("mntp", False), ("other", True)):
        objective = MNTP(Encoder(str(tmp_path / name), lora_rank=4, max_length=32))
        trainer = quiet_trainer(tmp_path, max_steps=3)
        if not refused:
            trainer.fit(objective, small_data(tmp_path), ckpt_path=last)
            continue
        with pytest.raises(UserError, match=r"`ckpt_path`: the checkpoint was trained on .*/mntp/"):
            trainer.fit(objective, small_data(tmp_path), ckpt_path=last)


def test_a_checkpoint_does_not_become_the_encoder_of_another_base(trained, llama_folder, tmp_path):
    """`mntp` in a config.yaml of an earlier version is a newer run by now."""
    expected = consolidate(str(trained), tmp_path / "before")
    assert Encoder.from_pretrained(expected).is_loaded
    stage(llama_folder, tmp_path / "mntp" / "version_1" / "encoder")
    with pytest.raises(UserError, match=r"last\.ckpt: the checkpoint was trained on .*version_0"):
        consolidate(str(trained), tmp_path / "after")
    assert not (tmp_path / "after").exists()


@pytest.mark.slow
def test_a_recipes_config_names_what_it_was_run_on(llama_folder, tmp_path):
    flags = f"""--data Wikipedia --data.path {articles(tmp_path)} --data.max_length 16
        --data.batch_size 4 --trainer.max_steps 2 --trainer.accelerator cpu --encoder.lora_rank 2
        --trainer.enable_progress_bar false --trainer.default_root_dir simcse"""
    first = stage(llama_folder, tmp_path / "runs" / "mntp" / "version_0" / "encoder")
    assert recipe(tmp_path, "--encoder.model_name runs/mntp", flags) == ""
    stage(llama_folder, tmp_path / "runs" / "mntp" / "version_1" / "encoder")
    config = yaml.safe_load((tmp_path / "simcse" / "version_0" / "config.yaml").read_text())
    assert config["encoder"]["model_name"] == str(first)
    assert Encoder(**config["encoder"]).adapters == [str(first)]
    resumed = recipe(tmp_path, "--encoder.model_name runs/mntp --resume last", flags)
    assert "error: --resume: the checkpoint was trained on" in resumed
    shutil.copytree(tmp_path / "runs/mntp/version_1/encoder", first, dirs_exist_ok=True)
    repeated = recipe(tmp_path, "--config simcse/version_0/config.yaml")
    assert "error: --encoder.fingerprint" in repeated
    assert "Traceback" not in repeated


def recipe(cwd: Path, *flags: str) -> str:
    """Runs recipes/mntp.py; what it printed if it failed, otherwise nothing."""
    done = run_recipe("mntp.py", *" ".join(flags).split(), cwd=cwd)
    return done.printed if done.returncode else ""
