"""Two ranks whose shares of a stream, or of the validation blocks, have no equal lengths."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from forked import spawn
from lightning.pytorch import Trainer
from silent import SILENT

from llm2vec_pl.data import Wikipedia
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.objectives import MNTP
from llm2vec_pl.objectives.base import row_count


class Steps(MNTP):
    """Counts the batches of each epoch."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder, mask_probability=0.5)
        self.steps: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.steps += [0] * (self.current_epoch + 1 - len(self.steps))
        self.steps[-1] += 1
        return super().training_step(batch, batch_idx)


def objective(model: str) -> Steps:
    return Steps(Encoder(model, lora_rank=4, lora_dropout=0.0, padding_free=False))


def texts(folder: Path, streaming: bool) -> Wikipedia:
    return Wikipedia(str(folder), max_length=8, batch_size=2, streaming=streaming)


def train(rank: int, model: str, folder: Path) -> None:
    options: dict[str, Any] = {
        "devices": 2,
        "strategy": "ddp",
        **SILENT,
        "enable_checkpointing": False,
    }
    found: dict[str, Any] = {}
    for name in ("streamed", "blocks", "one"):
        data = texts(folder.parent / "one" if name == "one" else folder, name != "blocks")
        found[name] = Trainer(**options).validate(objective(model), data, verbose=False)[0]
    module = objective(model)
    Trainer(max_epochs=2, **options).fit(module, texts(folder, True))
    (folder.parent / f"{rank}.json").write_text(json.dumps([found, module.steps]))


def expected(model: str, folder: Path, streaming: bool) -> dict[str, float]:
    """The mean over the rows of all ranks, each batch on its own."""
    module = objective(model)
    module.configure_model()
    module.eval()
    total = rows = 0.0
    for rank in range(2):
        data = texts(folder, streaming).attach(module.encoder)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        data.setup()
        for batch in data.val_dataloader():
            with torch.no_grad():
                total += module.loss(batch).item() * row_count(batch)
            rows += row_count(batch)
    loss = total / rows
    return {"val/loss": loss, "val/perplexity": torch.tensor(loss).exp().item()}


@pytest.mark.slow
def test_ranks_with_unequal_shares_validate_and_train_in_step(llama_folder, tmp_path: Path) -> None:
    def write(file: Path, words: list[int]) -> None:
        file.parent.mkdir(exist_ok=True)
        lines = [json.dumps({"text": f"text {i} " + "word " * n}) for i, n in enumerate(words)]
        file.write_text("\n".join(lines))

    folder = tmp_path / "texts"
    write(folder / "train.jsonl", [100, 5] * 4)  # rank 0 has the long ones
    write(folder / "valid.jsonl", [37, 3, 30, 3])
    write(tmp_path / "one" / "train.jsonl", [5] * 4)
    write(tmp_path / "one" / "valid.jsonl", [5])  # of which rank 1 has none
    running = spawn(train, (llama_folder, folder), nprocs=2, join=False)
    until = time.monotonic() + 200
    while not (ended := running.join(timeout=1)) and time.monotonic() < until:
        pass
    for process in running.processes:  # they may wait for each other
        process.kill()
    assert ended, "the ranks hang"
    (found, steps), (same, also) = (
        json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)
    )
    assert steps == also
    assert steps[0] == steps[1] > 0
    for name in found:
        want = expected(
            llama_folder, tmp_path / "one" if name == "one" else folder, name != "blocks"
        )
        for metric, value in want.items():
            assert found[name][metric] == pytest.approx(value, rel=1e-5), (name, metric)
            assert same[name][metric] == pytest.approx(value, rel=1e-5)
