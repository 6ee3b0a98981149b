"""Which weights of a decoder its last hidden states depend on, measured on the model itself.

Some weights do not count: text leaves towers for images and audio unused, an indexer picks tokens
without a gradient, a router's bias only ranks its experts. Such weights cannot be trained, and an
adapter on such a layer would keep its initial values. One short forward pass is enough, without a
backward pass: its graph leads back to all weights that would get a gradient.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from llm2vec_pl.bidirectional.switch import accepts_position_ids, text_config

EXPERT = re.compile(r"\bexperts\.\d+(?=\.|$)")
"""The number of an expert in a weight's name; a text reaches only some of the experts."""


def used_weights(decoder: nn.Module) -> set[str]:
    """The names of the parameters that a text's hidden states depend on, in training.

    Args:
        decoder: with its weights, or on the meta device; not sharded. It is not changed.

    Returns:
        Their names; all names if the modelling code cannot run.
    """
    named = [name for name, _ in decoder.named_parameters(remove_duplicate=False)]

    def found(model: nn.Module) -> set[str]:
        with _all_trained(model):
            reached = _leaves(_states(model))
        weights = model.named_parameters(remove_duplicate=False)
        return {name for name, p in weights if id(p) in reached}

    return _with_siblings(found, decoder, named)


def used_layers(decoder: nn.Module, layers: Iterable[str]) -> set[str]:
    """The layers whose output a text's hidden states depend on, in training.

    A layer that is never called, because other code uses its weight, is not among them: an adapter
    on it would have no effect.

    Args:
        decoder: with its weights, quantized or not, or on the meta device; not sharded.
        layers: names of the modules to choose from, which map states to states.

    Returns:
        Names from `layers`; all of them if the modelling code cannot run.
    """
    layers = list(layers)

    def found(model: nn.Module) -> set[str]:
        markers: dict[str, Tensor] = {}
        hooks = [
            model.get_submodule(name).register_forward_hook(_marking(markers, name))
            for name in layers
        ]
        try:
            reached = _leaves(_states(model))
        finally:
            for hook in hooks:
                hook.remove()
        return {name for name, marker in markers.items() if id(marker) in reached}

    return _with_siblings(found, decoder, layers)


def same_expert(name: str) -> str:
    """The name without the number of an expert: all experts are alike.

    >>> same_expert("layers.0.mlp.experts.12.up_proj.weight")
    'layers.0.mlp.experts.*.up_proj.weight'
    """
    return EXPERT.sub("experts.*", name)


def _with_siblings(
    found: Callable[[nn.Module], set[str]], decoder: nn.Module, names: list[str]
) -> set[str]:
    """What is found, and the other experts of a mixture of which the short text reached some."""
    try:
        with _runnable(decoder) as model:
            used = {same_expert(name) for name in found(model)}
    except Exception:  # modelling code that reads data where there is none
        used = set()
    return {name for name in names if same_expert(name) in used} or set(names)


def _marking(markers: dict[str, Tensor], name: str) -> Callable[..., Any]:
    """A hook that adds 0 to a layer's output: a leaf that can be found again in the graph."""

    def after(_: nn.Module, args: Any, output: Any) -> Any:
        if not isinstance(output, Tensor):
            return None
        if name not in markers:
            markers[name] = output.new_zeros(()).requires_grad_()
        return output + markers[name]

    return after


def _states(decoder: Any) -> Tensor:
    """The last hidden states of two short random texts, (2, 8, D), with their graph."""
    embedding = decoder.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, min(100, len(embedding)), (2, 8), generator=generator)
    inputs = {"input_ids": ids}
    if accepts_position_ids(decoder):
        inputs["position_ids"] = torch.arange(8).expand(2, 8)
    inputs = {k: v.to(embedding.device) for k, v in inputs.items()}
    states: Tensor = decoder(**inputs, use_cache=False).last_hidden_state
    return states


def _leaves(output: Tensor) -> set[int]:
    """The ids of the leaves that a tensor's graph leads back to."""
    leaves, seen, ahead = set(), set(), [output.grad_fn]
    while ahead:
        node: Any = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        ahead.extend(function for function, _ in node.next_functions)
    return leaves


@contextlib.contextmanager
def _runnable(decoder: Any) -> Iterator[nn.Module]:
    """The decoder in training mode; if it is quantized or has no data, a copy on the meta device.

    Quantized layers rearrange their weights when they are called, so they are not called here.
    """
    model = decoder
    if any(p.is_meta for p in decoder.parameters()):
        # Without data, torch multiplies groups of experts in this dtype only.
        model = copy.deepcopy(decoder).to("meta", torch.bfloat16)
    elif any(not p.is_floating_point() for p in decoder.parameters()):
        with torch.device("meta"):
            model = type(decoder)(copy.deepcopy(decoder.config)).to(torch.bfloat16)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.random.fork_rng(devices=[]),
        _training(model),
        _runs_anywhere(text_config(model)),
    ):
        yield model


@contextlib.contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """Training mode, in which some modelling code takes other paths, but without layerdrop."""
    modes = {module: module.training for module in model.modules()}
    rates = {m: m.layerdrop for m in modes if isinstance(getattr(m, "layerdrop", None), float)}
    model.train()
    for module in rates:
        module.layerdrop = 0.0  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for module, rate in rates.items():
            module.layerdrop = rate


@contextlib.contextmanager
def _all_trained(model: nn.Module) -> Iterator[None]:
    trained = {p: p.requires_grad for p in model.parameters()}
    for p in trained:
        p.requires_grad_(p.is_floating_point())
    try:
        yield
    finally:
        for p, before in trained.items():
            p.requires_grad_(before)


@contextlib.contextmanager
def _runs_anywhere(config: Any) -> Iterator[None]:
    """Runs sdpa in place of FlashAttention, which needs the model on a GPU."""
    name = config._attn_implementation
    if "flash" in str(name):
        config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        config._attn_implementation = name
