"""What a run leaves: logs, config.yaml and checkpoints, and the trained encoder in `encoder/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.model_helpers import is_overridden

from llm2vec_pl.decoder import ENCODER
from llm2vec_pl.encoder import pinned_flags, save_encoder, saved_weights
from llm2vec_pl.objectives import Objective, WordObjective
from llm2vec_pl.training.checkpoints import BEST


class Kept(NamedTuple):
    """Which of a run's models is kept: after how many steps, and its metrics `val/...`."""

    steps: int
    metrics: dict[str, float]


class PinnedConfig(SaveConfigCallback):
    """Writes a run's `config.yaml` with what names referred to: folders, commits, fingerprint.

    Later, `runs/mntp` will mean another run, and a branch another commit.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes nothing yet: a run resumed on another base is refused after this."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file; the lineage gets the same configuration."""
        if not self.already_saved and isinstance(pl_module, Objective):
            for flag, value in pinned_flags(pl_module.encoder).items():
                self.config["encoder"][flag] = value
        super().setup(trainer, pl_module, "fit")


def save_run(trainer: Trainer, recipe: str, config: Any, kept: Kept) -> Path | None:
    """Writes the encoder of a finished run, as it is now.

    Args:
        trainer: the trainer, after `fit`.
        recipe: the name of the recipe, for the lineage.
        config: the run's configuration, for the lineage.
        kept: from `keep_best`, for the lineage.

    Returns:
        The folder, on rank 0; None on other ranks, for a run without a folder, and for an encoder
        that was frozen.
    """
    folder = trainer.log_dir
    module = trainer.lightning_module
    quick = trainer.fast_dev_run  # type: ignore[attr-defined]
    if folder is None or quick or not isinstance(module, Objective):
        return None
    if isinstance(module, WordObjective) and module.is_frozen:
        return None
    weights = saved_weights(module.encoder)  # from all ranks
    if not trainer.is_global_zero:
        return None
    stage = {
        "recipe": recipe,
        "objective": type(module).__name__,
        "steps": kept.steps,
        "metrics": kept.metrics,
        "config": as_json(config),
    }
    module.encoder.notes |= module.notes()
    path = save_encoder(module.encoder, Path(folder) / ENCODER, stage, weights, module.save_beside)
    opened = f"{module.opened_by}.from_pretrained({str(path)!r})"
    rank_zero_info(f"Wrote {path}: open it with {opened}.")
    return path


def keep_best(trainer: Trainer, module: Objective, data: LightningDataModule) -> Kept:
    """Validates the end of a run, and goes back to the best checkpoint if that was better.

    There may have been no validation after the last step, and in a short run none at all.

    Returns:
        The steps and the metrics of the model that the module then holds.
    """
    quick = trainer.fast_dev_run  # type: ignore[attr-defined]
    if quick or not (is_overridden("val_dataloader", data) and trainer.limit_val_batches):
        return Kept(trainer.global_step, {})
    end = Kept(trainer.global_step, _metrics(trainer, module, data))
    callback = trainer.checkpoint_callback
    if not isinstance(callback, ModelCheckpoint) or not callback.dirpath:
        return end
    score = end.metrics.get(str(callback.monitor))
    if score is None:
        return end
    best = callback.best_model_score
    if best is None or (score <= best if callback.mode == "min" else score >= best):
        trainer.save_checkpoint(Path(callback.dirpath) / BEST, weights_only=False)
        trainer.strategy.checkpoint_io.teardown()  # waits for a checkpoint that is being written
        return end
    checkpoint = trainer.strategy.load_checkpoint(callback.best_model_path, weights_only=True)
    trainer.strategy.load_model_state_dict(checkpoint, strict=False)
    module.forget_validation()
    metrics = checkpoint.get("metrics")  # one from an earlier version has none
    if not metrics:
        trainer.validate(module, data, verbose=False)
        metrics = _validated(trainer)
    return Kept(checkpoint["global_step"], metrics)


def _metrics(trainer: Trainer, module: Objective, data: LightningDataModule) -> dict[str, float]:
    """The module's current metrics, from the last validation if it is recent, or from a new one."""
    known = module.validation_metrics()
    if known is not None:
        return known
    trainer.validate(module, data, verbose=False)
    return _validated(trainer)


def _validated(trainer: Trainer) -> dict[str, float]:
    return {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}


def as_json(config: Any) -> Any:
    """A configuration as plain JSON: anything but numbers, text, lists and tables becomes text."""
    if hasattr(config, "as_dict"):
        config = config.as_dict()
    if isinstance(config, dict):
        return {str(k): as_json(v) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [as_json(v) for v in config]
    return config if isinstance(config, (str, int, float, bool, type(None))) else str(config)
