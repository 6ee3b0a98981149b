"""Which layers of a decoder get a LoRA: those that text trains and that peft finds again."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llm2vec_pl.bidirectional import used_layers
from llm2vec_pl.decoder import FUSED_OUT_PROJ
from llm2vec_pl.errors import UserError


def linear_layers(decoder: PreTrainedModel, chosen: Sequence[str] | None = None) -> list[str]:
    """The names of the linear layers that get a LoRA, such as `q_proj` or `down_proj`.

    These are all linear layers except those that a text's states do not depend on, such as towers
    for images; those whose weight a fused kernel uses without the adapter; those that share a
    weight, since two adapters cannot be merged into one; and those that peft would not find again
    when it opens the adapter. Routers of mixtures of experts are of other types than plain linear
    layers and are left alone: an adapter on them would change which expert sees a token. If a
    decoder has no plain linear layers, as falcon, layers of derived types get the LoRA.

    Args:
        decoder: with its weights, or on the meta device; without a LoRA.
        chosen: ends of layers' names, or regular expressions for them; all if None.

    Returns:
        Ends of names, each as short as possible without matching another module.

    Raises:
        UserError: if an entry of `chosen` matches no layer, or no layer is left.
    """
    layers = used_layers(decoder, _of_linear_type(decoder))
    layers -= {name for name in layers if _is_passed_by(decoder, name)}
    layers -= _sharing_weights(decoder)
    lost = _lost_by_peft(decoder, layers)
    every = [name for name, _ in decoder.named_modules()]
    picked = _chosen(layers, lost, chosen) if chosen is not None else layers - lost
    if not picked:
        raise UserError(
            f"`lora_rank`: {decoder.config.model_type} has no linear layer that a LoRA could go "
            "on. Set `lora_rank=0`."
        )
    if chosen is None and lost:
        warnings.warn(
            f"{decoder.config.model_type}: the LoRA leaves out "
            f"{', '.join(_shortest_ends(lost, every))}, which peft would not find, or would take "
            "for parts of experts, when it opens the adapter.",
            stacklevel=3,
        )
    return _shortest_ends(picked, every)


def _of_linear_type(decoder: nn.Module) -> list[str]:
    kinds = (nn.Linear, Conv1D, *_quantized_linear_layers())
    modules = list(decoder.named_modules())
    names = [name for name, module in modules if type(module) in kinds]
    return names or [name for name, module in modules if isinstance(module, kinds)]


def _is_passed_by(decoder: nn.Module, name: str) -> bool:
    """Whether CUDA kernels use the layer's weight without calling the layer."""
    parent, _, own = name.rpartition(".")
    return own == "out_proj" and type(decoder.get_submodule(parent)).__name__ in FUSED_OUT_PROJ


def _sharing_weights(decoder: nn.Module) -> set[str]:
    """The modules that share a weight with another, such as the shared blocks of zamba."""
    owners: dict[int, list[str]] = {}
    for name, module in decoder.named_modules():
        for weight in module.parameters(recurse=False):
            owners.setdefault(id(weight), []).append(name)
    return {name for names in owners.values() if len(names) > 1 for name in names}


def _chosen(layers: set[str], lost: set[str], patterns: Sequence[str]) -> set[str]:
    picked: set[str] = set()
    for pattern in patterns:
        try:
            found = {name for name in layers if re.fullmatch(rf"(.*\.)?(?:{pattern})", name)}
        except re.error as error:
            raise UserError(
                f"`lora_targets`: {pattern} is neither the end of a layer's name nor a regular "
                f"expression ({error}). Choose from {', '.join(_kinds(layers - lost))}."
            ) from error
        if not found - lost:
            why = "peft would look for them elsewhere when it opens the adapter" if found else ""
            raise UserError(
                f"`lora_targets`: {pattern} matches no layer that a LoRA can go on"
                f"{f', as {why}' if why else ''}. Choose from {', '.join(_kinds(layers - lost))}."
            )
        picked |= found - lost
    return picked


def _kinds(layers: Iterable[str]) -> list[str]:
    return sorted({_end(name, 1) for name in layers})


def _end(name: str, parts: int) -> str:
    """The last `parts` parts of a name, or more if it would begin with a number."""
    split = name.split(".")
    while parts < len(split) and split[-parts].isdigit():
        parts += 1
    return ".".join(split[-parts:])


def _shortest_ends(picked: Iterable[str], every: Iterable[str]) -> list[str]:
    """The ends of the picked names, as short as possible without matching another module."""
    ends = {name: [_end(name, n) for n in range(1, name.count(".") + 2)] for name in every}
    owners = Counter(end for name in ends for end in set(ends[name]))
    own = Counter(end for name in picked for end in set(ends[name]))
    return sorted({next(e for e in ends[name] if owners[e] == own[e]) for name in picked})


# What peft does when it opens an adapter ---------------------------------------------------------


def _lost_by_peft(decoder: PreTrainedModel, layers: Iterable[str]) -> set[str]:
    """The layers whose adapters peft would misplace or not find when it opens a saved adapter.

    It reads every adapter as if it had been trained with transformers 4, where each expert of a
    mixture had layers of its own: it takes any `gate_proj` for a part of all experts, even in a
    dense layer or a shared expert, and renames keys as it renames the weights of old checkpoints.
    """
    try:
        from peft.utils import transformers_weight_conversion as conversion
    except ImportError:  # another peft, which renames nothing
        return set()
    moved = {kind for kind in {name.rpartition(".")[2] for name in layers} if _moves(decoder, kind)}
    lost = {name for name in layers if name.rpartition(".")[2] in moved}
    keys = {f"base_model.model.{name}.lora_A.weight": name for name in layers if name not in lost}
    read = conversion.convert_peft_adapter_state_dict_for_transformers(
        decoder, _adapter_on(keys.values()), {key: torch.zeros(1, 1) for key in keys}
    )
    return lost | {name for key, name in keys.items() if key not in read}


def _moves(decoder: PreTrainedModel, kind: str) -> bool:
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = _adapter_on([kind])
    try:
        convert_peft_config_for_transformers(config, decoder, None)
    except ValueError:  # one of several that go together
        return True
    return kind not in config.target_modules


def _adapter_on(layers: Iterable[str]) -> Any:
    from peft import LoraConfig

    return LoraConfig(target_modules=list(layers))


def _quantized_linear_layers() -> list[type[nn.Module]]:
    try:
        from bitsandbytes.nn import Linear4bit, Linear8bitLt
    except ImportError:
        return []
    return [Linear4bit, Linear8bitLt]
