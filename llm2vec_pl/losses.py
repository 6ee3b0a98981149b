"""Tensors -> a scalar. Pure functions, in float32 whatever the precision of the states."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils.checkpoint import checkpoint

from llm2vec_pl.masking import IGNORED

Head = Callable[[Tensor], Tensor]  # (M, D) -> (M, V)


def next_token_loss(
    hidden_states: Tensor,
    labels: Tensor,
    head: Head,
    target_count: Tensor | None = None,
    chunk_size: int = 128,
) -> tuple[Tensor, Tensor]:
    """Cross entropy of each labelled token, read from the state one position before it.

    With labels on the masked tokens it is masked next token prediction (LLM2Vec, section 2.1): the
    token hidden at i is predicted at i - 1, where the decoder learnt to predict it. With labels
    everywhere it is causal language modelling. Only labelled positions reach the head, in chunks
    whose logits are computed again in the backward pass: a vocabulary of 128k costs
    `chunk_size` x 128k logits at a time, however large the batch.

    Args:
        hidden_states: states of the decoder's last layer, (B, L, D).
        labels: the token to predict at each position, or -100, (B, L). Column 0 has no state
            before it and is ignored.
        head: states (M, D) -> logits (M, V).
        target_count: what the sum is divided by; the number of labels if None. Under several ranks
            it is the mean count over ranks, so that the averaged gradient is the global one.
        chunk_size: labelled positions whose logits exist at once.

    Returns:
        The loss in nats a token, and the number of labels whose logit was the highest: two scalars.
        Without a single label the loss is 0 and so is its gradient.
    """
    states = hidden_states[:, :-1][labels[:, 1:] != IGNORED]  # (M, D)
    targets = labels[:, 1:][labels[:, 1:] != IGNORED]  # (M,)
    if not len(targets):
        return hidden_states[:0].float().sum(), targets.new_zeros(())
    if len(targets) <= chunk_size:
        total, correct = _chunk(states, targets, head)
    else:
        chunks = zip(states.split(chunk_size), targets.split(chunk_size), strict=True)
        results = [checkpoint(_chunk, s, t, head, use_reentrant=False) for s, t in chunks]
        total = torch.stack([loss for loss, _ in results]).sum()
        correct = torch.stack([right for _, right in results]).sum()
    return total / (len(targets) if target_count is None else target_count), correct


def _chunk(states: Tensor, targets: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    logits = head(states).float()  # (M, V)
    correct = (logits.detach().argmax(dim=-1) == targets).sum()
    total: Tensor = _CrossEntropySum.apply(logits, targets)  # type: ignore[no-untyped-call]
    return total, correct


class _CrossEntropySum(torch.autograd.Function):
    """Cross entropy summed over rows, whose gradient takes the place of the logits in memory.

    PyTorch's own keeps the log-probabilities and makes a gradient beside them: three times (M, V).
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
