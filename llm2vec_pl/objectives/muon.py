"""PyTorch's Muon, made fast on processors that do not multiply in bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from llm2vec_pl.decoder import multiplies_in_bfloat16


class Muon(torch.optim.Muon):
    """Muon (Jordan et al. 2024) with updates of AdamW's root mean square (Liu et al. 2025).

    PyTorch's own orthogonalises in bfloat16 everywhere. On a CPU without instructions for it, the
    optimizer then takes several times longer than the rest of a small model's step. This one
    orthogonalises in float32 there, which is also more exact.

    The state and the settings that are not arguments are those of `torch.optim.Muon`.

    Args:
        matrices: parameters of two dimensions.
        lr: learning rate; one that suits AdamW will do.
        weight_decay: decoupled weight decay.
    """

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float = 0.1) -> None:
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of every matrix that has a gradient, after an evaluation of the closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._update(matrix, matrix.grad, group)
        return loss

    def _update(self, matrix: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        momentum, state = group["momentum"], self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        average = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        ahead = gradient.lerp(average, momentum)  # Nesterov's
        update = orthogonal(ahead, group["ns_coefficients"], group["ns_steps"], group["eps"])
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        matrix.add_(update, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)


def orthogonal(
    matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """The matrix (M, N) with its singular values brought near 1 by a Newton-Schulz iteration.

    Args:
        matrix: in any precision.
        coefficients: a, b, c of the step X <- aX + (bA + cA²)X with A = XXᵀ.
        steps: number of iterations.
        eps: lower bound of the norm that is divided by.

    Returns:
        (M, N), in bfloat16 where the device multiplies in it, else in float32.
    """
    a, b, c = coefficients
    slow = matrix.device.type == "cpu" and not multiplies_in_bfloat16()
    wide = matrix.to(torch.float32 if slow else torch.bfloat16)
    wide = wide if matrix.shape[0] <= matrix.shape[1] else wide.mT  # the smaller XXᵀ of the two
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.mT
