"""Whether adapters have the same form, so that their updates can be averaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from llm2vec_pl.errors import UserError

NO_MATTER = (
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision"),
    *("eva_config", "init_lora_weights", "lora_dropout", "runtime_config", "task_type"),
    *("exclude_modules", "layers_pattern", "layers_to_transform", "target_modules"),
)
"""Entries of peft's configuration that do not change what a trained adapter computes, or that show
in its keys."""

NO_PRODUCT = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "target_parameters"),
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "megatron_config"),
    *("monteclora_config", "velora_config"),
)
"""Entries with which an adapter's update is something other than a scale times B times A."""

CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of peft's initialisations that subtract something from the base's weights."""

NAMES = {"r": "lora_rank", "lora_alpha": "lora_alpha", "use_rslora": "rslora"}


def require_product(folder: str, weights: Mapping[str, Tensor], config: Any) -> None:
    """Checks that an adapter changes weights by s·B·A alone.

    Args:
        folder: the adapter's, for the error.
        weights: the adapter's, by key.
        config: peft's configuration of it.

    Raises:
        UserError: if it is another kind of adapter.
    """
    kind = getattr(config.peft_type, "value", config.peft_type)
    odd = next((name for name in NO_PRODUCT if getattr(config, name, None)), None)
    start = str(getattr(config, "init_lora_weights", "")).lower()
    if kind != "LORA":
        reason = f"is of type {kind}"
    elif odd:
        reason = f"has {odd}, with which its update of a weight is not just B·A"
    elif start.startswith(CHANGE_THE_BASE):
        reason = f"was initialised by {start}, which changes the weights below it"
    elif any(".lora_" in key and value.dim() != 2 for key, value in weights.items()):
        reason = "adapts a convolution"
    else:
        return
    raise UserError(
        f"The adapter {folder} {reason}, so it has no average with others. Open each encoder with "
        "Encoder.from_pretrained, save it with save_encoder, which then writes all weights, and "
        "average those."
    )


def require_alike(
    folders: tuple[str, str],
    weights: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    configs: tuple[Any, Any],
) -> None:
    """Checks that two adapters have the same layers, ranks and scales.

    Args:
        folders: theirs, for the error.
        weights: theirs, by key.
        configs: peft's configurations of them.

    Raises:
        UserError: naming the first difference.
    """
    one, other = (config.to_dict() for config in configs)
    for name in [*NAMES, *sorted(one.keys() | other.keys())]:
        if name not in NO_MATTER and one.get(name) != other.get(name):
            raise differing(folders, f"`{NAMES.get(name, name)}`", one.get(name), other.get(name))
    first, second = weights
    for key in sorted(first.keys() ^ second.keys()):
        has, lacks = folders if key in first else folders[::-1]
        raise UserError(f"{has} has an adapter's weight {key}, and {lacks} has none. {ALIKE}")
    for key, value in first.items():
        if value.shape != second[key].shape:
            shapes = tuple(value.shape), tuple(second[key].shape)
            raise differing(folders, f"the shape of {key}", *shapes)


ALIKE = (
    "Only runs of one form have an average: they may differ in their data, seed, learning rate and "
    "number of steps."
)


def differing(names: tuple[str, str], what: str, one: object, other: object) -> UserError:
    """The error for something in which two encoders differ.

    Args:
        names: the encoders' folders.
        what: it is that differs.
        one: its value in the first.
        other: its value in the second.
    """
    return UserError(f"{what} is {one!r} in {names[0]}, but {other!r} in {names[1]}. {ALIKE}")
