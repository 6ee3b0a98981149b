"""What a run says of the encoder that it leaves: all of it of one model."""

import json
import sys
from pathlib import Path

import pytest
import torch
from trained import articles

from llm2vec_pl.data import E5, Wikipedia, WikipediaSentences
from llm2vec_pl.data.examples import read_instructions
from llm2vec_pl.encoder import Encoder, MultiVectorEncoder
from llm2vec_pl.objectives import MNTP, Contrastive, LateInteraction
from llm2vec_pl.training.command import Command
from llm2vec_pl.training.consolidation import consolidate

LOSSES = {2: 5.0, 4: 1.0, 6: 3.0, 7: 2.0}  # of a validation after so many steps


class Told(MNTP):
    """Its validation finds what it is told to, and of which step."""

    losses = LOSSES

    def validation_step(self, batch, batch_idx):
        loss = self.losses.get(self.trained_steps(), 9.0)
        self.log("val/loss", torch.tensor(loss), batch_size=1)
        self.log("val/quality", torch.tensor(-loss), batch_size=1)
        self.log("val/steps", torch.tensor(float(self.trained_steps())), batch_size=1)

    def configure_model(self):
        super().configure_model()
        if not hasattr(self, "steps"):
            self.steps = torch.nn.Parameter(torch.zeros(()))  # goes with the weights

    def loss(self, batch):
        return super().loss(batch) + 0 * self.steps

    def on_train_batch_start(self, batch, batch_idx):
        super().on_train_batch_start(batch, batch_idx)
        self.steps.data.fill_(self.global_step + 1)

    def trained_steps(self):
        return round(self.steps.item())


def run(folder, tmp_path, monkeypatch, *flags, kind=Told):
    """A recipe's command in this process; the folder of its run and the last of its stages."""
    command = f"""mntp.py --encoder.model_name {folder} --encoder.lora_rank 2 --data.path
        {articles(tmp_path)} --data.max_length 16 --data.batch_size 4 --trainer.max_steps 7
        --trainer.val_check_interval 2 --trainer.check_val_every_n_epoch null
        --trainer.limit_val_batches 1 --trainer.num_sanity_val_steps 0 --trainer.accelerator cpu
        --trainer.enable_progress_bar false --trainer.enable_model_summary false
        --trainer.default_root_dir {tmp_path / "runs"}"""
    monkeypatch.setattr(sys, "argv", [*command.split(), *flags])
    encoder = Command("mntp", kind, Wikipedia).fit()
    assert encoder is not None
    return encoder.parent, stage_of(encoder)


def stage_of(encoder: Path):
    return json.loads((encoder / "lineage.json").read_text())["stages"][-1]


def assert_of_step(stage, step):
    assert stage["steps"] == stage["metrics"]["val/steps"] == step
    assert stage["metrics"]["val/loss"] == -stage["metrics"]["val/quality"] == LOSSES[step]


def test_the_lineage_is_all_of_the_best_model(llama_folder, tmp_path, monkeypatch):
    left, stage = run(llama_folder, tmp_path, monkeypatch)
    assert_of_step(stage, 4)
    best = consolidate(str(left / "checkpoints" / "best.ckpt"), tmp_path / "again")
    assert_of_step(stage_of(best), 4)
    last = stage_of(consolidate(str(left / "checkpoints" / "last.ckpt"), tmp_path / "last"))
    assert last["steps"] == 7
    assert last["metrics"].get("val/steps", 7) == 7  # or nothing is known of it


def test_late_interaction_leaves_its_projection(llama_folder, tmp_path, monkeypatch, capsys):
    """So does a checkpoint of its run."""
    flags = f"""simcse.py --encoder.model_name {llama_folder} --encoder.lora_rank 2
        --encoder.attention_dropout 0.3 --data.path {articles(tmp_path)} --data.batch_size 4
        --model.projection_dim 8 --trainer.max_steps 2 --trainer.limit_val_batches 1
        --trainer.accelerator cpu --trainer.enable_progress_bar false
        --trainer.enable_model_summary false --trainer.default_root_dir {tmp_path / "runs"}"""
    monkeypatch.setattr(sys, "argv", flags.split())
    command = Command("simcse", LateInteraction, WikipediaSentences)
    encoder = command.fit()
    weight = command.model.token_projection.weight.data
    torch.testing.assert_close(
        MultiVectorEncoder.from_pretrained(encoder).projection.weight, weight
    )
    checkpoint = encoder.parent / "checkpoints" / "best.ckpt"
    again = consolidate(str(checkpoint), tmp_path / "again")
    torch.testing.assert_close(MultiVectorEncoder.from_pretrained(again).projection.weight, weight)
    assert f"MultiVectorEncoder.from_pretrained({str(again)!r})" in capsys.readouterr().out


def test_the_instructions_of_a_run_are_its_encoders_prompts(llama_folder, tmp_path, monkeypatch):
    """So they are of a checkpoint of it."""
    pairs = [{"query": f"query {i}", "positive": f"text {i}"} for i in range(120)]
    (tmp_path / "nq.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    flags = f"""supervised.py --encoder.model_name {llama_folder} --encoder.lora_rank 2
        --data.path {tmp_path / "nq.jsonl"} --data.batch_size 4 --trainer.max_steps 2
        --trainer.limit_val_batches 1 --trainer.accelerator cpu
        --trainer.enable_progress_bar false --trainer.enable_model_summary false
        --trainer.default_root_dir {tmp_path / "runs"}"""
    monkeypatch.setattr(sys, "argv", flags.split())
    left = Command("supervised", Contrastive, E5).fit()
    again = consolidate(str(left.parent / "checkpoints" / "best.ckpt"), tmp_path / "again")
    for folder in (left, again):
        prompts = Encoder.from_pretrained(folder).prompts
        assert set(prompts) == {"nq", "query"}
        assert prompts["query"] == prompts["nq"] == read_instructions()["nq"].texts[0]


def test_the_lineage_is_all_of_the_end_where_that_is_the_best(llama_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Told, "losses", {**LOSSES, 7: 0.5})
    monkeypatch.setitem(LOSSES, 7, 0.5)
    left, stage = run(llama_folder, tmp_path, monkeypatch)
    assert_of_step(stage, 7)
    best = torch.load(left / "checkpoints" / "best.ckpt", weights_only=True)
    assert (best["global_step"], best["metrics"]["val/loss"]) == (7, 0.5)


def test_nor_does_a_metric_that_should_be_high_mix_models(llama_folder, tmp_path, monkeypatch):
    flags = ["--checkpoint.monitor", "val/quality", "--checkpoint.mode", "max"]
    assert_of_step(run(llama_folder, tmp_path, monkeypatch, *flags)[1], 4)


def test_nor_does_a_users_own_checkpoint(llama_folder, tmp_path, monkeypatch):
    flags = ["--trainer.callbacks+", "ModelCheckpoint", "--trainer.callbacks.monitor"]
    flags += ["val/quality", "--trainer.callbacks.mode", "max"]
    assert_of_step(run(llama_folder, tmp_path, monkeypatch, *flags)[1], 4)


def test_a_run_without_checkpoints_leaves_its_end(llama_folder, tmp_path, monkeypatch):
    flags = ["--trainer.enable_checkpointing", "false"]
    assert_of_step(run(llama_folder, tmp_path, monkeypatch, *flags)[1], 7)


def test_a_run_without_validation_has_no_metrics(llama_folder, tmp_path, monkeypatch):
    flags = ["--trainer.limit_val_batches", "0"]
    stage = run(llama_folder, tmp_path, monkeypatch, *flags)[1]
    assert (stage["steps"], stage["metrics"]) == (7, {})


class Earlier(Told):
    """Writes checkpoints as an earlier version did."""

    def on_save_checkpoint(self, checkpoint):
        super().on_save_checkpoint(checkpoint)
        checkpoint.pop("metrics", None)


def test_the_best_of_an_earlier_version_is_measured_again(llama_folder, tmp_path, monkeypatch):
    assert_of_step(run(llama_folder, tmp_path, monkeypatch, kind=Earlier)[1], 4)


@pytest.mark.parametrize("interval", ["1", "1.0"])
@pytest.mark.parametrize("own", [False, True])
def test_a_validation_after_each_batch_is_not_one_an_epoch(
    interval, own, llama_folder, tmp_path, monkeypatch
):
    """Lightning's callbacks take the number 1 for 1.0, and wait for the end of the epoch."""
    monkeypatch.setattr(Told, "losses", {**LOSSES, 3: 0.2})
    monkeypatch.setitem(LOSSES, 3, 0.2)
    flags = ["--trainer.val_check_interval", interval, "--trainer.check_val_every_n_epoch", "1"]
    if own:
        flags += ["--trainer.callbacks+", "ModelCheckpoint", "--trainer.callbacks.monitor"]
        flags += ["val/loss"]
    left, stage = run(llama_folder, tmp_path, monkeypatch, *flags)
    assert stage["steps"] == (3 if interval == "1" else 7)
    (best,) = [f for f in (left / "checkpoints").iterdir() if f.name != "last.ckpt"]
    assert torch.load(best, weights_only=True)["global_step"] == stage["steps"]
