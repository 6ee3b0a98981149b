"""Tensors -> a scalar. Pure functions, in float32 whatever the precision of the states."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils.checkpoint import checkpoint

from llm2vec_pl.objectives.masking import IGNORED

Head = Callable[[Tensor], Tensor]  # (M, D) -> (M, V)


def next_token_loss(
    hidden_states: Tensor,
    labels: Tensor,
    head: Head,
    target_count: Tensor | None = None,
    chunk_size: int = 128,
    places: Tensor | None = None,
    trains_head: bool = True,
) -> tuple[Tensor, Tensor]:
    """Cross entropy of the labelled tokens, each predicted from the state one position before it.

    With labels on the masked tokens it is masked next token prediction (LLM2Vec, section 2.1): the
    token hidden at i is predicted at i - 1, where the decoder learnt to predict it. With labels
    everywhere it is causal language modelling. Only labelled positions reach the head, in chunks: a
    vocabulary of 128k costs `chunk_size` x 128k logits at a time, however large the batch. A head
    that is trained computes them again in the backward pass. A frozen one, as with a LoRA, computes
    the states' gradient together with the loss: two matrix products instead of three.

    Args:
        hidden_states: states of the decoder's last layer, (B, L, D).
        labels: the token to predict at each position, or -100, (B, L). Column 0 has no state
            before it and is ignored.
        head: states (M, D) -> logits (M, V).
        target_count: the number that the sum is divided by; the number of labels if None. On
            several ranks, the mean count over ranks, so that the averaged gradient is the global
            one.
        chunk_size: labelled positions whose logits exist at once.
        places: `label_places(labels)`, if it is known already: asking a GPU for it means waiting.
        trains_head: whether the head's weights need a gradient.

    Returns:
        The loss in nats per token, and the number of labels whose logit was the highest: two
        scalars. Without any labels, the loss and its gradient are 0.
    """
    if places is None:
        places = label_places(labels)
    states = hidden_states.flatten(0, 1).index_select(0, places - 1)  # (M, D)
    targets = labels.flatten().index_select(0, places)  # (M,)
    if not len(targets):
        return hidden_states[:0].float().sum(), targets.new_zeros(())
    chunks = zip(states.split(chunk_size), targets.split(chunk_size), strict=True)
    if not trains_head:
        results = [_chunk_and_gradient(s, t, head) for s, t in chunks]
    elif len(targets) > chunk_size:
        results = [checkpoint(_chunk, s, t, head, use_reentrant=False) for s, t in chunks]
    else:
        results = [_chunk(states, targets, head)]
    total = torch.stack([loss for loss, _ in results]).sum()
    correct = torch.stack([right for _, right in results]).sum()
    return total / (len(targets) if target_count is None else target_count), correct


def label_places(labels: Tensor) -> Tensor:
    """The places in flattened labels (B, L) with a token to predict, (M,); column 0 is ignored.

    >>> label_places(torch.tensor([[-100, 5, -100], [7, -100, 6]])).tolist()
    [1, 5]
    """
    return is_label(labels).flatten().nonzero()[:, 0]


def is_label(labels: Tensor) -> Tensor:
    """Which of the labels (B, L) are tokens to predict, (B, L)."""
    labelled = labels != IGNORED
    labelled[:, :1] = False
    return labelled


def _chunk(states: Tensor, targets: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    logits = head(states).float()  # (M, V)
    correct = (logits.detach().argmax(dim=-1) == targets).sum()
    total: Tensor = _CrossEntropySum.apply(logits, targets)  # type: ignore[no-untyped-call]
    return total, correct


def _chunk_and_gradient(states: Tensor, targets: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """As `_chunk`, but keeps only the states' gradient, (M, D), for the backward pass."""
    if not (torch.is_grad_enabled() and states.requires_grad):
        return _chunk(states, targets, head)
    leaf = states.detach().requires_grad_()
    total, correct = _chunk(leaf, targets, head)
    (gradient,) = torch.autograd.grad(total, leaf)
    total = _WithGradient.apply(states, total.detach(), gradient)  # type: ignore[no-untyped-call]
    return total, correct


class _WithGradient(torch.autograd.Function):
    """A total whose gradient with respect to the states is known."""

    @staticmethod
    def forward(ctx: FunctionCtx, states: Tensor, total: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return total.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * upstream, None, None


class _CrossEntropySum(torch.autograd.Function):
    """Cross entropy summed over rows, whose gradient overwrites the logits in memory.

    PyTorch's own keeps the log-probabilities and allocates a gradient as well: three times (M, V).
    """

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, targets: Tensor) -> Tensor:
        normaliser = torch.cat([rows.logsumexp(dim=-1) for rows in logits.split(16)])  # (M,)
        ctx.save_for_backward(logits, targets, normaliser)
        return (normaliser - logits.gather(1, targets[:, None])[:, 0]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        logits, targets, normaliser = ctx.saved_tensors  # type: ignore[attr-defined]
        probabilities = logits.sub_(normaliser[:, None]).exp_()  # (M, V)
        probabilities[torch.arange(len(targets), device=targets.device), targets] -= 1.0
        return probabilities.mul_(gradient), None
