"""A checkpoint as a folder: each rank writes its share of weights and optimizer states."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from llm2vec_pl.files import put_in_place

_REST = "meta.pt"  # Lightning's name for what is not sharded


def is_shards(path: Path) -> bool:
    """Whether this is a folder that `save_shards` wrote."""
    return (path / _REST).is_file()


def save_shards(checkpoint: dict[str, Any], path: Path, rank: int) -> None:
    """Writes a checkpoint beside the one that it replaces; every rank must call it.

    `meta.pt` is written last: a folder without it is not complete.

    Args:
        checkpoint: Lightning's checkpoint, with the tensors of this rank.
        path: of the folder.
        rank: of this process.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    if rank == 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    dist.barrier()
    optimizers = checkpoint.get("optimizer_states", [])
    tensors = {"state_dict": checkpoint["state_dict"]}
    tensors |= {f"optimizer_{i}": state["state"] for i, state in enumerate(optimizers)}
    dcp.save(tensors, checkpoint_id=unfinished)
    if rank == 0:
        rest = {k: v for k, v in checkpoint.items() if k not in ("state_dict", "optimizer_states")}
        rest["param_groups"] = [state["param_groups"] for state in optimizers]
        torch.save(rest, unfinished / _REST)
        put_in_place(unfinished, path)
    dist.barrier()


def read_shards(path: Path) -> dict[str, Any]:
    """Reads a whole folder, for a process that holds all weights.

    Returns:
        Lightning's checkpoint, in the same form as `load_shards` returns it.
    """
    metadata = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    rest: dict[str, Any] = torch.load(path / _REST, map_location="cpu", weights_only=True)
    groups = rest.pop("param_groups")
    whole = {
        key: torch.empty(saved.size, dtype=saved.properties.dtype)
        for key, saved in metadata.items()
        if isinstance(saved, TensorStorageMetadata)
    }
    dcp.load(whole, checkpoint_id=path, no_dist=True)
    states: list[dict[str, Any]] = [{"state": {}, "param_groups": group} for group in groups]
    weights = {}
    for key, value in whole.items():
        part, name = key.split(".", 1)
        if part == "state_dict":
            weights[name] = value
        else:
            name, field = name.rsplit(".", 1)
            states[int(part.removeprefix("optimizer_"))]["state"].setdefault(name, {})[field] = (
                value
            )
    return {**rest, "state_dict": weights, "optimizer_states": states}


def load_shards(
    path: Path, trained: dict[str, Any], weights_only: bool | None = None
) -> dict[str, Any]:
    """Reads this rank's share of every tensor in a checkpoint.

    Args:
        path: of the folder; any number of ranks may have written it.
        trained: this rank's trained parameters, by name.
        weights_only: false lets `meta.pt` hold any Python object.

    Returns:
        Lightning's checkpoint.
    """
    reader = dcp.FileSystemReader(path)
    there = reader.read_metadata().state_dict_metadata
    rest: dict[str, Any] = torch.load(
        path / _REST, map_location="cpu", weights_only=weights_only is not False
    )
    groups = rest.pop("param_groups")
    parts = ["state_dict", *(f"optimizer_{i}" for i in range(len(groups)))]
    tensors = {part: _templates(part, there, trained) for part in parts}
    dcp.load(tensors, checkpoint_id=path)
    optimizers = [
        {"state": tensors[f"optimizer_{i}"], "param_groups": group}
        for i, group in enumerate(groups)
    ]
    return {**rest, "state_dict": tensors["state_dict"], "optimizer_states": optimizers}


def _templates(part: str, there: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
    """Empty tensors for everything that the folder holds of one part."""
    templates: dict[str, Any] = {}
    for name, p in trained.items():
        key = f"{part}.{name}"
        if key in there:
            templates[name] = torch.empty_like(p, requires_grad=False)
        fields = [k.removeprefix(f"{key}.") for k in there if k.startswith(f"{key}.")]
        values = {f: _template(p, there[f"{key}.{f}"]) for f in fields if part != "state_dict"}
        if values:
            templates[name] = values
    return templates


def _template(p: Tensor, saved: Any) -> Tensor:
    if saved.size == p.shape and p.dim():
        return torch.empty_like(p, dtype=saved.properties.dtype, requires_grad=False)
    return torch.empty(saved.size, dtype=saved.properties.dtype)
