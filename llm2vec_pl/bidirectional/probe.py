"""Which tokens does each token see? Measured on the running model, by zero gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


@torch.inference_mode(False)
@torch.enable_grad()
def token_influence(
    forward: Callable[[], Any], modules: Mapping[str, nn.Module], length: int
) -> dict[str, Tensor]:
    """Which input tokens each output token of a module depends on.

    `forward` runs the same text in L rows, and row i is read at token i: one forward pass, and one
    backward pass through each module alone, give all L x L answers. A gradient is exactly zero only
    where there is no path: it shows even attention weights too small to change a bfloat16 sum.

    Args:
        forward: runs a model in eval mode on one text of L tokens, L times.
        modules: which modules to watch; none may lie inside another.
        length: L, in tokens.

    Returns:
        By name, for each module that maps states (L, L, D) to states: (L, L), true where the output
        at token i depends on the input at token j.
    """
    influences: dict[str, Tensor] = {}
    hooks: list[RemovableHandle] = []
    for name, module in modules.items():
        hooks += watch(module, length, influences, name)
    try:
        # Layers compiled with these hooks would serve no other call.
        with torch.compiler.set_stance("force_eager"):
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    return influences


def influence_fault(influence: Tensor, real: Tensor) -> str | None:
    """What is wrong with a layer that has this influence (L, L), given its real tokens (L,)."""
    seen = influence[real][:, real]
    if influence[real][:, ~real].any():
        return "see padding"
    if seen.all() or not (seen.triu(1) | seen.tril(-1)).any():  # the latter: no mixing, like an MLP
        return None
    return "see some tokens only" if seen.triu(1).any() else "see only the tokens before"


def watch(
    module: nn.Module, length: int, influences: dict[str, Tensor], name: str
) -> list[RemovableHandle]:
    """Hooks that record the module's influence; of several calls, what they have in common."""
    leaves: list[Tensor] = []  # the module's input; empty if that is not a state per token

    def before(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        leaves.clear()
        hidden, replace = find_states(args, kwargs, length)
        if hidden is None:
            return None
        leaves.append(hidden.detach().requires_grad_())
        return replace(leaves[0] * 1)  # a copy, since the module may write into its input

    def after(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        states = output[0] if isinstance(output, (tuple, list)) else output
        if not leaves or not is_states(states, length) or not states.requires_grad:
            return
        found = influence_of(states, leaves[0], length)
        influences[name] = found & influences.get(name, found)

    return [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True),
    ]


def influence_of(output: Tensor, leaf: Tensor, length: int) -> Tensor:
    """Which output token depends on which input token, (L, L), from one backward pass."""
    own = rows_first(output, length).diagonal()  # (..., L), row i at token i
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(own.shape, generator=generator).to(own)  # no sum cancels by chance
    (gradient,) = torch.autograd.grad((own * weights).sum(), leaf, allow_unused=True)
    if gradient is None:
        return torch.zeros(length, length, dtype=torch.bool)
    return (rows_first(gradient, length).flatten(2) != 0).any(dim=-1).cpu()  # (L, L)


def find_states(
    args: tuple[Any, ...], kwargs: dict[str, Any], length: int
) -> tuple[Tensor | None, Callable[[Tensor], tuple[Any, Any]]]:
    """The hidden states among a module's inputs, and a function that replaces them there."""
    if args and is_states(args[0], length):
        return args[0], lambda states: ((states, *args[1:]), kwargs)
    for key in ("hidden_states", "x", "input"):
        if is_states(kwargs.get(key), length):
            return kwargs[key], lambda states, key=key: (args, {**kwargs, key: states})
    return None, lambda states: (args, kwargs)


def is_states(value: Any, length: int) -> bool:
    """Whether this is a vector per row and token, (L, L, D), perhaps in several streams."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    return (length, length) in zip(value.shape[:-2], value.shape[1:-1], strict=True)


def rows_first(states: Tensor, length: int) -> Tensor:
    """The states with rows and tokens in front, (L, L, ...), where gemma3n puts its streams."""
    rows = [*zip(states.shape, states.shape[1:], strict=False)].index((length, length))
    return states.movedim((rows, rows + 1), (0, 1))
