"""Which layers of a decoder get a LoRA: those that a text trains, and that peft finds again."""

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
    """Names that pick the linear layers that a LoRA goes on, as `q_proj` or `down_proj`.

    These are all linear layers but: those that a text's states do not depend on, as towers for
    images; those whose weight a fused kernel uses past the adapter; those that share their weight,
    into which two adapters cannot be merged; and those that peft would not find again when it opens
    the adapter. Routers of mixtures of experts are not linear layers of
    the exact type and stay as they are: an adapter on them would change which expert sees a token.
    Where there is none of this type, as in falcon, a type derived from it will do.

    Args:
        decoder: with its weights, or on the meta device; without a LoRA.
        chosen: ends of layers' names, or regular expressions for them; all if None.

    Returns:
        Ends of names, each as short as can be without picking another module.

    Raises:
        UserError: if something chosen picks no layer, or no layer is left.
    """
    layers = used_layers(decoder, _of_linear_type(decoder))
    layers -= {name for name in layers if _is_passed_by(decoder, name)}
    layers -= _sharing_weights(decoder)
    lost = _lost_by_peft(decoder, layers)
    every = [name for name, _ in decoder.named_modules()]
    picked = _chosen(layers, lost, chosen) if chosen is not None else layers - lost
    if not picked:
        raise UserError(
            f"--encoder.lora_rank: {decoder.config.model_type} has no linear layer that a LoRA "
            "could go on. Set --encoder.lora_rank 0."
        )
    if chosen is None and lost:
        warnings.warn(
            f"{decoder.config.model_type}: the LoRA leaves out "
            f"{', '.join(_shortest_ends(lost, every))}, which peft would take for parts of the "
            "experts, or not find, when it opens the adapter.",
            stacklevel=3,
        )
    return _shortest_ends(picked, every)


def _of_linear_type(decoder: nn.Module) -> list[str]:
    kinds = (nn.Linear, Conv1D, *_quantized_linear_layers())
    modules = list(decoder.named_modules())
    names = [name for name, module in modules if type(module) in kinds]
    return names or [name for name, module in modules if isinstance(module, kinds)]


def _is_passed_by(decoder: nn.Module, name: str) -> bool:
    """Whether kernels for CUDA multiply with the layer's weight themselves."""
    parent, _, own = name.rpartition(".")
    return own == "out_proj" and type(decoder.get_submodule(parent)).__name__ in FUSED_OUT_PROJ


def _sharing_weights(decoder: nn.Module) -> set[str]:
    """The modules that have a weight in common with another, as the shared blocks of zamba."""
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
                f"--encoder.lora_targets {pattern}: neither the end of a layer's name nor a "
                f"regular expression ({error})."
            ) from error
        if not found - lost:
            why = "peft would look for them elsewhere when it opens the adapter" if found else ""
            raise UserError(
                f"--encoder.lora_targets {pattern} picks no layer that a LoRA can go on"
                f"{f': {why}' if why else ''}. There are {', '.join(_kinds(layers - lost))}."
            )
        picked |= found - lost
    return picked


def _kinds(layers: Iterable[str]) -> list[str]:
    return sorted({_end(name, 1) for name in layers})


def _end(name: str, parts: int) -> str:
    """The last parts of a name; a number is none that says anything without the one before."""
    split = name.split(".")
    while parts < len(split) and split[-parts].isdigit():
        parts += 1
    return ".".join(split[-parts:])


def _shortest_ends(picked: Iterable[str], every: Iterable[str]) -> list[str]:
    """The ends of the picked names, as short as can be without picking another module."""
    ends = {name: [_end(name, n) for n in range(1, name.count(".") + 2)] for name in every}
    owners = Counter(end for name in ends for end in set(ends[name]))
    own = Counter(end for name in picked for end in set(ends[name]))
    return sorted({next(e for e in ends[name] if owners[e] == own[e]) for name in picked})


# What peft does when it opens an adapter ---------------------------------------------------------


def _lost_by_peft(decoder: PreTrainedModel, layers: Iterable[str]) -> set[str]:
    """The layers whose adapters peft would put elsewhere, or not find, in a saved adapter.

    It reads every adapter as if it had been trained with transformers 4, where the experts of a
    mixture were layers of their own: it takes `gate_proj` for a part of all experts, be it a dense
    or a shared one, and renames keys as the weights of old checkpoints are.
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
