"""Trained adapters: read from disk, fitted to the decoder, and merged into it or put on top.

An adapter's keys follow the model that it was trained on: a causal language model
(`base_model.model.model.layers…`, like most on the hub) or the inner decoder
(`base_model.model.layers…`, like those of LLM2Vec). Both fit. Every key is used, or an error names
those that cannot be: an adapter applied in part would silently give wrong embeddings.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llm2vec_pl.decoder import display_name, split_causal_lm
from llm2vec_pl.errors import UserError
from llm2vec_pl.lora.dropout import fuse_dropout

PREFIX = "base_model.model."
NAME = "default"
EARLIER_NAME = "earlier_"
"""How the names of adapters begin that lie unmerged on top of quantized weights."""

WRAPPERS = frozenset(
    {"model", "transformer", "decoder", "language_model", "text_model", "gpt_neox"}
)
"""Modules around a text decoder that an adapter's keys may name and this model may lack."""

LOADED = ("is_loaded_in_4bit", "is_loaded_in_8bit")
"""Attributes by which peft recognises quantized models."""


class Layout(NamedTuple):
    """An adapter's weights, and the model that their keys are relative to.

    Args:
        root: the causal language model, or its decoder.
        weights: the adapter's weights, by keys that begin inside the root.
    """

    root: PreTrainedModel
    weights: dict[str, Tensor]


def merge_adapters(model: PreTrainedModel, adapters: Iterable[str]) -> PreTrainedModel:
    """Merges trained adapters into a model's weights, one after the other, in place.

    Args:
        model: a causal language model with its weights, in full precision; or a decoder alone.
        adapters: folders.

    Returns:
        The same model.

    Raises:
        UserError: if an adapter does not fit the model, or only in part.
    """
    for folder in adapters:
        weights, config = read_adapter(folder)
        layout = _fit(weights, model)
        _untie(model, layout)
        with _fitting(folder):
            merged = _adapt(layout, config, folder).merge_and_unload()
        if merged is not layout.root:
            _take_children(layout.root, merged)
    return model.requires_grad_(True)  # peft has frozen what it wrapped


def put_on_top(model: PreTrainedModel, adapters: Sequence[str], trained: bool) -> None:
    """Puts adapters on top of a decoder's weights, frozen and unmerged.

    This is for quantized weights, which would have to be rounded again to merge an adapter.

    Args:
        model: a causal language model; a new LoRA on its decoder, if any, must be there already.
        adapters: folders, in the order in which they were trained.
        trained: whether there is a new LoRA to be trained on top of them.

    Raises:
        UserError: if an adapter does not fit the decoder, or only in part.
    """
    from peft import inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    names = [f"{EARLIER_NAME}{i}" for i in range(len(adapters))]
    for folder, name in zip(adapters, names, strict=True):
        weights, config = read_adapter(folder)
        layout = _fit(weights, model)
        config.lora_dropout = 0.0  # it is no longer trained
        with _fitting(folder), without_advice():
            bare = _bare(layout.root)
            inject_adapter_in_model(_for_modules(config, layout), bare, name)
            _take_children(layout.root, bare)
            for key, parameter in bare.named_parameters():
                if f".{name}." in key:
                    parameter.data = parameter.data.float()  # as it was trained
            _load(bare, layout.weights, name, folder)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.set_adapter([*names, *([NAME] if trained else [])])
            if not module.cast_input_dtype_enabled:  # the new LoRA casts by itself
                fuse_dropout(module)
    for parameter_name, parameter in model.named_parameters():
        if f".{EARLIER_NAME}" in parameter_name or not trained:
            parameter.requires_grad_(False)


def read_adapter(folder: str) -> tuple[dict[str, Tensor], Any]:
    """An adapter's weights, by keys without peft's prefix, and peft's configuration of it.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.

    Raises:
        UserError: if it cannot be read, or cannot be merged into one set of weights.
    """
    from peft import PeftConfig
    from peft.utils import SAFETENSORS_WEIGHTS_NAME
    from safetensors.torch import load_file

    try:
        config: Any = PeftConfig.from_pretrained(folder)
        weights = load_file(Path(folder) / SAFETENSORS_WEIGHTS_NAME)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"The adapter {display_name(folder)} cannot be read ({str(error).splitlines()[0]}). "
            "It may be incomplete, or saved by a newer peft: copy it again, or upgrade peft."
        ) from error
    if not weights:
        raise UserError(f"The adapter {display_name(folder)} holds no weights. Copy it again.")
    if getattr(config, "layer_replication", None):
        raise UserError(
            f"The adapter {display_name(folder)} has layer_replication, which runs layers of the "
            "model several times with different adapters: they cannot be merged into one set of "
            "weights. Name an adapter without it."
        )
    if config.is_prompt_learning:
        raise UserError(
            f"The adapter {display_name(folder)} is of type {config.peft_type.value}, which learns "
            "a prompt: there is nothing to merge into a decoder's weights. Name a LoRA."
        )
    config.inference_mode = True
    return {key.removeprefix(PREFIX): value for key, value in weights.items()}, config


def _fit(weights: dict[str, Tensor], model: PreTrainedModel) -> Layout:
    """The root that the keys are relative to, and the weights by their keys there."""
    decoder = split_causal_lm(model)[0] if _has_head(model) else model
    inner = {key: _inside(key, decoder) for key in weights}
    if all(key == short for key, short in inner.items()):
        return Layout(decoder, weights)
    path = next(name for name, module in model.named_modules() if module is decoder)
    start = f"{path}." if path else ""
    whole = {(start + short if short else key): weights[key] for key, short in inner.items()}
    return Layout(model, whole)


def _has_head(model: PreTrainedModel) -> bool:
    return model.get_output_embeddings() is not None


def _inside(key: str, decoder: nn.Module) -> str | None:
    """A key relative to the decoder; None if it belongs to another part of the model."""
    children = {name for name, _ in decoder.named_children()}
    parts = key.split(".")
    while parts and parts[0] not in children:
        if parts[0] not in WRAPPERS:
            return None
        parts = parts[1:]
    return ".".join(parts) or None


def _untie(model: PreTrainedModel, layout: Layout) -> None:
    """Gives head and embedding separate weights if an adapter changes one of the two."""
    head: Any = model.get_output_embeddings()
    embedding: Any = model.get_input_embeddings()
    if head is None or getattr(embedding, "weight", None) is not getattr(head, "weight", head):
        return
    names = [n for n, m in layout.root.named_modules() if m is head or m is embedding]
    apart = [key for key in layout.weights if ".token_adapter" not in key]  # peft ties those
    if not any(key.startswith(f"{name}.") for key in apart for name in names):
        return
    head.weight = nn.Parameter(head.weight.detach().clone())
    for config in (model.config, model.config.get_text_config(decoder=True)):
        config.tie_word_embeddings = False


def _adapt(layout: Layout, config: Any, folder: str) -> Any:
    """The root as peft wraps it, with the adapter's weights."""
    from peft import PeftModel
    from peft.utils import set_peft_model_state_dict

    with without_advice():
        if _is_native(layout):
            adapted = PeftModel(_bare(layout.root), _for_modules(config, layout), NAME)
            inner: Any = adapted.base_model.model
            _load(inner, layout.weights, NAME, folder)
            return adapted
        # Keys of an earlier transformers, such as one for each expert: peft converts them.
        adapted = PeftModel(layout.root, config, NAME)
        keys = {f"{PREFIX}{key}": value for key, value in layout.weights.items()}
        result: Any = set_peft_model_state_dict(adapted, keys, NAME)
    _refuse_unused(result.unexpected_keys, len(keys), folder)
    return adapted


def _is_native(layout: Layout) -> bool:
    """Whether each key belongs to a module that exists under this name."""
    modules = {name for name, _ in layout.root.named_modules()}
    return all(_module_of(key) in modules for key in layout.weights)


def _module_of(key: str) -> str:
    """The module that a key of a LoRA adapts."""
    for mark in (".lora_", ".token_adapter", ".base_layer", ".modules_to_save"):
        key = key.partition(mark)[0]
    return key.removesuffix(".weight").removesuffix(".bias")


def _for_modules(config: Any, layout: Layout) -> Any:
    """The configuration, limited to the modules that have keys."""
    if not hasattr(config, "lora_alpha") or config.target_parameters:
        return config
    targets = {_module_of(key) for key in layout.weights if ".lora_" in key}
    config.target_modules = targets or config.target_modules
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    return config


def _bare(root: PreTrainedModel) -> nn.Module:
    """The same modules without a configuration.

    With one, peft would take modules of some architectures for experts, and convert keys that are
    already right.
    """
    bare = nn.Module()
    for name, child in root.named_children():
        bare.add_module(name, child)
    for name in LOADED:
        setattr(bare, name, getattr(root, name, False))
    setattr(bare, "is_gradient_checkpointing", False)  # noqa: B010
    return bare


def _take_children(root: nn.Module, bare: nn.Module) -> None:
    for name, child in bare.named_children():
        setattr(root, name, child)


@torch.no_grad()
def _load(root: nn.Module, weights: dict[str, Tensor], name: str, folder: str) -> None:
    """Fills an adapter that peft has put into the modules."""
    places = {_saved_key(key, name): value for key, value in root.state_dict().items()}
    shared = {key: value for key, value in root.state_dict().items() if key in weights}
    unused = [key for key in weights if key not in places and key not in shared]
    _refuse_unused(unused, len(weights), folder)
    _refuse_missing([key for key in _own_keys(root, name) if key not in weights], folder)
    for key, value in weights.items():
        place = places[key] if key in places else shared[key]
        if place.shape != value.shape:
            raise ValueError(
                f"{key} has shape {tuple(value.shape)} in the adapter and {tuple(place.shape)} in "
                "the decoder."
            )
        place.copy_(value)


def _saved_key(key: str, name: str) -> str:
    """What peft calls a weight of this adapter on disk; an empty string for any other weight."""
    before, mark, after = key.partition(f".{name}")
    if not mark or (after and not after.startswith(".")):
        return ""
    saved = before.removesuffix(".modules_to_save") + after
    return saved.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def _own_keys(root: nn.Module, name: str) -> list[str]:
    """The keys that an adapter must have on disk, for the modules that it is put into."""
    keys = [key for key in root.state_dict() if ".lora_" in key or ".modules_to_save." in key]
    return [saved for key in keys if (saved := _saved_key(key, name))]


def _refuse_missing(keys: Sequence[str], folder: str) -> None:
    if keys:
        raise UserError(
            f"The adapter {display_name(folder)} is incomplete: it lacks {len(keys)} weights, such "
            f"as {keys[0]}. Copy or save it again."
        )


def _refuse_unused(keys: Sequence[str], count: int, folder: str) -> None:
    if keys:
        named = ", ".join(key.removeprefix(PREFIX) for key in list(keys)[:3])
        raise UserError(
            f"The adapter {display_name(folder)} does not fit the decoder, which has no place for "
            f"{len(keys)} of its {count} weights, such as {named}. Name the model that the adapter "
            "was trained on."
        )


@contextlib.contextmanager
def _fitting(folder: str) -> Iterator[None]:
    """Turns errors of peft and torch about an adapter that does not fit into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, RuntimeError, AttributeError) as error:
        raise UserError(
            f"The adapter {display_name(folder)} does not fit the decoder: "
            f"{str(error).rstrip('.')}. Name the model that the adapter was trained on."
        ) from error


@contextlib.contextmanager
def without_advice() -> Iterator[None]:
    """Hides two of peft's warnings, which do not concern users.

    One is about a property of the model that has been renamed, the other about weights that were
    read from this package's cache.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*`is_gradient_checkpointing` is deprecated.*")
        warnings.filterwarnings("ignore", ".*`base_model_name_or_path` was renamed.*")
        yield
