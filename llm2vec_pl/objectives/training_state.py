"""What a checkpoint of an objective holds, the same whichever strategy wrote it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from llm2vec_pl.distributed import resumed_settings
from llm2vec_pl.errors import UserError


def named_state(state: dict[str, Any], optimizer: Optimizer, module: nn.Module) -> dict[str, Any]:
    """An optimizer's state with parameters' names instead of their numbers.

    Numbers depend on the order of the parameter groups and on what a rank holds; names do not, so
    that DDP, FSDP2 and a single device read each other's checkpoints.

    Args:
        state: from `optimizer.state_dict()`; one that has names already is returned unchanged.
        optimizer: the optimizer that it belongs to.
        module: the module that the parameters belong to.
    """
    if "state" not in state or any(isinstance(key, str) for key in state["state"]):
        return state
    return _renamed(state, dict(enumerate(_names(optimizer, module))).__getitem__)


def numbered_state(
    state: dict[str, Any], optimizer: Optimizer, module: nn.Module
) -> dict[str, Any]:
    """The inverse of `named_state`, in the order of this optimizer's parameters."""
    if "state" not in state or not all(isinstance(key, str) for key in state["state"]):
        return state
    names = _names(optimizer, module)
    numbers = {name: number for number, name in enumerate(names)}
    given = {name: group for group in state["param_groups"] for name in group["params"]}
    groups = []
    for group in optimizer.state_dict()["param_groups"]:
        settings = given.get(names[group["params"][0]], {}) if group["params"] else {}
        groups.append({**group, **resumed_settings(settings)})
    return {
        **state,
        "state": {numbers[name]: value for name, value in state["state"].items()},
        "param_groups": groups,
    }


def _renamed(state: dict[str, Any], rename: Callable[[Any], Any]) -> dict[str, Any]:
    groups = [{**g, "params": [rename(p) for p in g["params"]]} for g in state["param_groups"]]
    return {
        **state,
        "state": {rename(key): value for key, value in state["state"].items()},
        "param_groups": groups,
    }


def _names(optimizer: Optimizer, module: nn.Module) -> list[str]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def require_same_weights(state_dict: dict[str, Any], module: nn.Module) -> None:
    """Checks that a checkpoint has exactly the weights that are trained.

    Raises:
        UserError: naming weights that are missing, unknown or of another shape.
    """
    trained = {name: p.shape for name, p in module.named_parameters() if p.requires_grad}
    faults = []
    for name in [name for name in trained if name not in state_dict][:3]:
        faults.append(f"it lacks {name}")
    for name in [name for name in state_dict if name not in trained][:3]:
        faults.append(f"it has {name}, which is not trained here")
    for name, shape in trained.items():
        there = getattr(state_dict.get(name), "shape", shape)
        if there != shape and len(faults) < 6:
            faults.append(f"{name} has shape {tuple(there)} in it and {tuple(shape)} here")
    if faults:
        raise UserError(
            "`ckpt_path`: the checkpoint is from another model or another way of training it: "
            f"{'; '.join(faults)}. Use the same objective and encoder arguments as the run that "
            "wrote it (its config.yaml lists them)."
        )
