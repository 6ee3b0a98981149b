"""Runs cases of the matrix, one after the other, in this process or as a rank of torchrun.

`python tests/matrix_runs.py MODEL CASES.json LOSSES.json`: each case is {"strategy", "precision",
"quantization", "objective", …}; rank 0 writes the losses of each case, a mean over ranks per step.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from contrastive_texts import NEGATIVES, POSITIVES, QUERIES, contrastive_batch
from forked import run_ranks
from lightning.pytorch import Callback, LightningDataModule, Trainer

from llm2vec_pl.distributed.fsdp2 import FSDP2
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.objectives import MNTP, Contrastive, Objective
from llm2vec_pl.objectives.causal_lm import CausalLM

STEPS = 3
TEXTS = [*QUERIES, *POSITIVES, *QUERIES[::-1]]  # eight in a step


class Record(Callback):
    """Draws the same LoRA in each case, and keeps the loss of each batch."""

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        torch.manual_seed(0)  # Lightning has seeded anew, or not, by the strategy

    def on_train_batch_end(self, *args: Any) -> None:
        self.losses.append(args[2]["loss"].detach().double() * args[0].accumulate_grad_batches)


class Batches(LightningDataModule):
    """The same texts in each step, whatever the number of ranks that share them."""

    def __init__(self, objective: Objective, steps: range) -> None:
        super().__init__()
        self.objective, self.steps = objective, steps

    def train_dataloader(self) -> Any:
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        rows = slice(rank * 8 // ranks, (rank + 1) * 8 // ranks)
        make = pairs if isinstance(self.objective, Contrastive) else blocks
        batches = [make(self.objective, rows, step) for step in self.steps]
        return torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def blocks(objective: Objective, rows: slice, step: int) -> Any:
    """With other numbers of labels on each rank."""
    batch = objective.encoder.tokenize([TEXTS[(8 * step + i) % len(TEXTS)] for i in range(8)])
    batch.pop("pooling_mask")
    if isinstance(objective, MNTP):
        batch = objective.masked(batch, torch.Generator().manual_seed(step))
    return {key: value[rows] for key, value in batch.items()}


def pairs(objective: Objective, rows: slice, step: int) -> Any:
    """With 0 to 3 hard negatives a query."""
    negatives = NEGATIVES[step:] + NEGATIVES[:step]
    return contrastive_batch(objective.encoder, rows, negatives)


def losses(model: str, case: dict[str, Any]) -> list[float]:
    """Trains one case; the loss of each batch, as one process with all texts would have it."""
    encoder = Encoder(
        model,
        bidirectional=case["objective"] != "causal language model",
        lora_rank=case.get("lora_rank", 4),
        lora_dropout=0.0,
        quantization=case["quantization"],
        gradient_checkpointing=case.get("gradient_checkpointing", False),
    )
    accumulate = case.get("accumulate", 1)
    start = case.get("start", 0)  # where a checkpoint to resume from was written
    objective = objective_of(case["objective"], encoder)
    if rate := case.get("sgd"):  # Adam would not see a gradient that is W times too large
        objective.optimizer = lambda: torch.optim.SGD(  # type: ignore[method-assign]
            [p for p in objective.parameters() if p.requires_grad], rate
        )
    record = Record()
    trainer = Trainer(
        accelerator="cpu",
        devices=int(os.environ.get("WORLD_SIZE", 1)),
        strategy=FSDP2(True) if case["strategy"] == "fsdp2 in shards" else case["strategy"],
        precision=case["precision"],
        max_steps=start + STEPS,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=case.get("clip"),
        callbacks=[record],
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # A loader without a state starts anew when a run is resumed, but its batches are counted.
    steps = range(start, 2 * start + STEPS * accumulate)
    trainer.fit(objective, Batches(objective, steps), ckpt_path=case.get("resume"))
    if "save" in case:
        trainer.save_checkpoint(case["save"])
    found = torch.stack(record.losses)
    if trainer.world_size > 1:
        dist.all_reduce(found)
    return (found / trainer.world_size).tolist()  # type: ignore[no-any-return]


def objective_of(name: str, encoder: Encoder) -> Objective:
    """MNTP, or contrastive learning with weights of its own, whole or in chunks."""
    torch.manual_seed(1)
    rate = {"learning_rate": 3e-3, "warmup_steps": 0, "schedule": "constant"}
    if name == "causal language model":
        return CausalLM(encoder, **rate)  # type: ignore[arg-type]
    if name == "mntp":
        return MNTP(encoder, **rate)  # type: ignore[arg-type]
    return Contrastive(
        encoder,
        learn_temperature=True,
        projection_dim=16,
        chunk_size=3 if name == "chunks" else None,
        **rate,  # type: ignore[arg-type]
    )


def launch(ranks: int, cases: list[dict[str, Any]], model: str, folder: Path) -> list[list[float]]:
    """The losses of cases, by one launch of that many processes."""
    (folder / "cases.json").write_text(json.dumps(cases))
    arguments = [model, str(folder / "cases.json"), str(folder / "losses.json")]
    for done in run_ranks(Path(__file__), arguments, ranks, cwd=folder, seconds=900):
        assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "losses.json").read_text())  # type: ignore[no-any-return]


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    model, cases, target = sys.argv[1:]
    found = [losses(case.get("model", model), case) for case in json.loads(Path(cases).read_text())]
    if int(os.environ.get("RANK", 0)) == 0:
        Path(target).write_text(json.dumps(found))
