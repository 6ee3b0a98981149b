import csv

import pytest
import torch
from evaluation_texts import TEXTS
from forked import spawn
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger
from silent import SILENT
from torch.utils.data import DataLoader

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.analysis import FutureUse, Geometry, future_use
from llm2vec_pl.objectives import Objective

METRICS = {
    *(f"future/{name}" for name in ("positive", "negative", "margin", "accuracy")),
    *(f"geometry/{name}" for name in ("alignment", "uniformity", "anisotropy", "effective_rank")),
}


class Shrink(Objective):
    """A loss for any texts; it moves the embeddings."""

    def loss(self, batch):
        return self(batch).square().mean()

    def on_fit_start(self):
        pass  # the proof of step 1 has tests of its own


def test_both_are_logged_at_each_validation_of_a_fit(llama_folder, sts_file, tmp_path):
    objective = Shrink(Encoder(llama_folder, lora_rank=0), learning_rate=1e-2, schedule="constant")
    data = DataLoader(TEXTS, batch_size=2, collate_fn=objective.encoder.tokenize)
    callbacks = [FutureUse(limit=6), Geometry(sts_file, limit=4)]
    trainer = Trainer(
        max_steps=3,
        val_check_interval=1,
        callbacks=callbacks,
        enable_checkpointing=False,
        **{**SILENT, "logger": CSVLogger(tmp_path, version=0)},
    )
    trainer.fit(objective, data, data)
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["future/margin"]]
    assert len(rows) == 3
    assert rows[0].keys() >= METRICS
    assert rows[0]["geometry/uniformity"] != rows[-1]["geometry/uniformity"]  # it has trained
    expected = future_use(objective.encoder, callbacks[0].triples)
    assert float(rows[-1]["future/positive"]) == pytest.approx(expected["positive"][-1], abs=1e-5)
    assert objective.encoder.decoder.training


def test_they_are_named_in_yaml(tmp_path, sts_file):
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
trainer:
  logger: false
  callbacks:
    - class_path: llm2vec_pl.evaluation.analysis.FutureUse
      init_args: {{limit: 5}}
    - class_path: llm2vec_pl.evaluation.analysis.Geometry
      init_args: {{sts: {sts_file}}}
"""
    )
    cli = LightningCLI(
        Objective, run=False, subclass_mode_model=True, save_config_callback=None,
        args=["--config", str(config), "--model", f"{__name__}.Nothing"],
    )  # fmt: skip
    callbacks = cli.trainer.callbacks
    (future,) = [each for each in callbacks if isinstance(each, FutureUse)]
    (geometry,) = [each for each in callbacks if isinstance(each, Geometry)]
    assert len(future.triples) == 5
    assert len(geometry.pairs[0]) >= 2


def on_a_rank(rank: int, folder: str, sts: str, result: str) -> None:
    """Trains a sharded encoder for a step, and notes what the callbacks log."""
    objective = Shrink(Encoder(folder, lora_rank=0), learning_rate=1e-2, schedule="constant")
    data = DataLoader(TEXTS, batch_size=2, collate_fn=objective.encoder.tokenize)
    callbacks = [FutureUse(limit=6, batch_size=4), Geometry(sts, limit=4)]
    options = {"enable_checkpointing": False, "num_sanity_val_steps": 0, **SILENT}
    trainer = Trainer(
        max_steps=1,
        strategy="fsdp2",
        devices=2,
        callbacks=callbacks,
        val_check_interval=1,
        **options,
    )
    trainer.fit(objective, data, data)
    found = {name: trainer.callback_metrics[name].item() for name in METRICS}
    alone = Encoder(folder, lora_rank=0)
    before = {k: v for each in callbacks for k, v in each.measure(alone).items()}
    torch.save((found, before), f"{result}-{rank}")


@pytest.mark.slow
def test_two_ranks_with_a_sharded_encoder_log_the_same(llama_folder, sts_file, tmp_path):
    result = str(tmp_path / "result")
    spawn(on_a_rank, (llama_folder, sts_file, result), nprocs=2)
    (first, before), (second, _) = (torch.load(f"{result}-{rank}") for rank in range(2))
    assert first == second
    for name in METRICS:  # a small step changes little
        assert first[name] == pytest.approx(before[name], abs=0.5), name
    assert first["geometry/uniformity"] != before["geometry/uniformity"]


class Nothing(Objective):
    """An objective that the command line can build without an encoder's weights."""

    def __init__(self) -> None:
        super().__init__(Encoder("tiny", lora_rank=0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FutureUse("nowhere.jsonl"), "nowhere.jsonl does not exist"),
        (lambda: Geometry("nowhere.jsonl"), "nowhere.jsonl does not exist"),
        (lambda: Geometry(limit=1), "`Geometry.limit` expects at least 2, but got 1"),
        (lambda: FutureUse(batch_size=0), "`FutureUse.batch_size` expects at least 1"),
    ],
)
def test_a_wrong_option_is_an_error_at_construction(make, message):
    with pytest.raises(UserError, match=message):
        make()
