"""The linear layer of late interaction in an encoder's folder, as sentence-transformers has it."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from llm2vec_pl.errors import UserError
from llm2vec_pl.files import read_json, write_json

FOLDER = "1_Dense"  # where sentence-transformers and PyLate keep theirs


def save_projection(weight: Tensor, folder: Path) -> None:
    """Writes the layer into a folder below an encoder's.

    Args:
        weight: that of the layer, which has no bias, (size of a vector, size of a hidden state).
        folder: the encoder's folder.
    """
    from safetensors.torch import save_file

    place = folder / FOLDER
    place.mkdir()
    settings = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    write_json(place / "config.json", settings)
    whole = weight.detach().float().cpu().contiguous()
    save_file({"linear.weight": whole}, place / "model.safetensors")


def read_projection(folder: Path | None) -> nn.Linear | None:
    """The layer in an encoder's folder, in float32 on the CPU; None if there is none.

    Raises:
        UserError: if its files are damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if folder is None or not (folder / FOLDER).is_dir():
        return None
    place = folder / FOLDER
    try:
        settings = read_json(place / "config.json")
        weight = load_file(place / "model.safetensors")["linear.weight"]
        projection = new_projection(settings["in_features"], settings["out_features"])
        projection.load_state_dict({"weight": weight})
    except (OSError, SafetensorError, KeyError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{place} does not hold a projection that can be read ({error}). Copy the encoder's "
            "folder again."
        ) from error
    return projection


def warn_of_projection(folder: Path | None) -> None:
    """Warns that an encoder's embeddings of whole texts have not been trained, if so."""
    if folder is not None and (folder / FOLDER).is_dir():
        warnings.warn(
            f"{folder} was trained for late interaction, with a vector for each token; one vector "
            "for a whole text it has not learned. Open it with `MultiVectorEncoder`.",
            stacklevel=3,
        )


def new_projection(states: int, vectors: int) -> nn.Linear:
    """A layer from hidden states to vectors of another size, orthogonal: no direction is lost.

    Args:
        states: size of a hidden state.
        vectors: size of a vector.
    """
    layer = nn.Linear(states, vectors, bias=False, dtype=torch.float32)
    nn.init.orthogonal_(layer.weight)
    return layer
