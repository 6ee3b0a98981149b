"""From a checkpoint, whichever strategy wrote it, to the folder that a finished run leaves."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from llm2vec_pl.decoder import ENCODER
from llm2vec_pl.encoder import Encoder, require_same_origin, save_encoder, save_projection
from llm2vec_pl.errors import UserError
from llm2vec_pl.training.checkpoint_files import CheckpointFiles
from llm2vec_pl.training.resume import find_checkpoint

PREFIX = "encoder."


def consolidate(checkpoint: str, out: Path | None = None) -> Path:
    """Writes the encoder in a checkpoint as a folder of its own.

    This runs in one process on the CPU, and needs memory for the decoder.

    Args:
        checkpoint: path of a checkpoint, or the folder of a run for its last one.
        out: the folder to write; by default `encoder` in the folder of the run.

    Returns:
        The folder.

    Raises:
        UserError: if there is no such checkpoint, its run has no config.yaml, or the weights that
            it was trained on have been replaced by others.
    """
    path = find_checkpoint(checkpoint, Path("runs"))
    if path is None or checkpoint == "last":
        raise UserError("Name a checkpoint or the folder of a run, such as runs/mntp/version_0.")
    config = _config(path)
    saved = CheckpointFiles().load_checkpoint(path)
    encoder = Encoder(**config["encoder"]).load()
    require_same_origin(saved, encoder, str(path))
    encoder.tokenize.freeze(saved.get("rendered_template"))
    _fill(encoder, saved["state_dict"], path)
    encoder.prompts = saved.get("prompts", encoder.prompts)
    objective = saved.get("objective", {})
    encoder.notes |= objective.get("notes", {})
    stage = {
        "recipe": Path(config["trainer"]["default_root_dir"]).name,
        "objective": objective.get("name"),
        "steps": saved["global_step"],
        "metrics": saved.get("metrics", {}),
        "config": config,
    }
    weight = saved["state_dict"].get("token_projection.weight")  # of LateInteraction
    also = None if weight is None else partial(save_projection, weight)
    folder = save_encoder(encoder, out or path.parents[1] / ENCODER, stage, also=also)
    kind = "Encoder" if weight is None else "MultiVectorEncoder"
    print(f"Wrote {folder}: open it with {kind}.from_pretrained({str(folder)!r}).")
    return folder


def _config(path: Path) -> dict[str, Any]:
    import yaml

    file = path.parents[1] / "config.yaml"
    if not file.is_file():
        raise UserError(
            f"{path} is not in the folder of a run: {file}, which describes the encoder, is "
            "missing. Copy it there from the run."
        )
    return dict(yaml.safe_load(file.read_text()))


@torch.no_grad()
def _fill(encoder: Encoder, state: dict[str, Any], path: Path) -> None:
    weights = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    unknown = encoder.load_state_dict(weights, strict=False).unexpected_keys
    if unknown or not weights:
        raise UserError(
            f"{path} does not fit the encoder in its config.yaml: "
            + (f"that has no {unknown[0]}." if unknown else "it holds no weights of an encoder.")
        )
