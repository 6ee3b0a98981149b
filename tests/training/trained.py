"""Short trainings in this process, on a small decoder and generated text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar

from llm2vec_pl.data import Wikipedia
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.objectives import MNTP
from llm2vec_pl.training.checkpoint_files import CheckpointFiles
from llm2vec_pl.training.checkpoints import Checkpoints


def articles(folder: Path, count: int = 60) -> str:
    """A file of text, an article a line."""
    path = folder / "articles.txt"
    path.write_text("\n".join(f"Article {i} is about rivers and {i} lakes." for i in range(count)))
    return str(path)


def quiet_trainer(folder: Path, *callbacks: Any, **options: Any) -> Trainer:
    """A CPU trainer whose only output is its checkpoints, those of the recipes.

    If a callback is a progress bar, that prints too.
    """
    settings = {
        "max_steps": 4,
        "limit_val_batches": 2,
        "num_sanity_val_steps": 0,
        "plugins": [CheckpointFiles()],
        **options,
    }
    return Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=any(isinstance(each, ProgressBar) for each in callbacks),
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[*callbacks] or [Checkpoints(every_n_steps=2)],
        **settings,
    )


def small_mntp(model: str, kind: type[MNTP] = MNTP, **options: Any) -> MNTP:
    """MNTP on a LoRA of rank 4."""
    return kind(Encoder(model, lora_rank=4, max_length=32), **options)


def small_data(folder: Path) -> Wikipedia:
    """Blocks of 16 tokens, 4 in a batch."""
    return Wikipedia(articles(folder), max_length=16, batch_size=4)
