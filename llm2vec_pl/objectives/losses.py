"""Tensors -> a scalar. Pure functions, in float32 whatever the precision of the states."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
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


class TextIds(NamedTuple):
    """Which texts are the same: equal texts have equal numbers. All are int64."""

    query: Tensor  # (B,)
    positive: Tensor  # (B,)
    negative: Tensor  # (N,)


def info_nce(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor | None = None,
    temperature: float | Tensor = 0.05,
    *,
    in_batch: bool = True,
    symmetric: bool = False,
    query_index: Tensor | None = None,
    ids: TextIds | None = None,
    margin: float | None = None,
    rows: slice | None = None,
) -> Tensor:
    """Each query has to find its positive among the candidates (van den Oord et al. 2018, eq. 4).

    The candidates are the positives of all queries and all negatives. The loss is -log softmax of
    the cosine similarities divided by the temperature, as in SimCSE (Gao et al. 2021, eq. 1, 5).

    Args:
        queries: (B, D), of any norm: they are normalised here.
        positives: (B, D), in the order of the queries.
        negatives: hard negatives, (N, D); any number per query.
        temperature: the number that similarities are divided by.
        in_batch: whether the other queries' positives and negatives are candidates too.
        symmetric: also let each positive find its query among all queries, and average both losses.
        query_index: the query that each negative belongs to, (N,); needed if `in_batch` is off.
        ids: if given, a query ignores candidates that are the same text as itself or its positive,
            and the positives of equal queries.
        margin: if given, candidates that score above the positive's similarity minus this are
            ignored as false negatives.
        rows: which queries (and positives) to compute the loss of, in a batch gathered from several
            ranks; all if None.

    Returns:
        The mean over the rows, in nats: a scalar in float32.

    Raises:
        ValueError: if the numbers of rows do not fit, or there is nothing to compare queries with.

    >>> texts = torch.eye(2)
    >>> info_nce(texts, texts, temperature=1.0).item()  # -log(e / (e + 1))
    0.31326165795326233
    """
    if symmetric and not in_batch:
        raise ValueError("`symmetric=True` compares with the batch: it needs `in_batch=True`.")
    rows = rows or slice(len(queries))
    forward = similarities(
        queries,
        positives,
        negatives,
        in_batch=in_batch,
        query_index=query_index,
        ids=ids,
        margin=margin,
        rows=rows,
        temperature=temperature,
    )
    targets = torch.arange(len(queries), device=queries.device)[rows]
    loss = F.cross_entropy(forward, targets)
    if not symmetric:
        return loss
    swapped = ids and TextIds(ids.positive, ids.query, ids.negative[:0])
    backward = similarities(
        positives, queries, ids=swapped, margin=margin, rows=rows, temperature=temperature
    )
    return (loss + F.cross_entropy(backward, targets)) / 2


def similarities(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor | None = None,
    *,
    in_batch: bool = True,
    query_index: Tensor | None = None,
    ids: TextIds | None = None,
    margin: float | None = None,
    rows: slice | None = None,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    """Cosine similarity of each query with each candidate, -inf for candidates that it ignores.

    Args: those of `info_nce`.

    Returns:
        (R, B + N) in float32 for R rows, divided by the temperature; query i's positive is
        candidate i.
    """
    _check_rows(queries, positives, negatives, in_batch, query_index)
    rows = rows or slice(len(queries))
    candidates = positives if negatives is None else torch.cat([positives, negatives])
    # Autocast would multiply in half precision, where close candidates score the same.
    with torch.autocast(queries.device.type, enabled=False):
        unit = F.normalize(queries[rows].float(), dim=-1)  # (R, D)
        scores = unit @ F.normalize(candidates.float(), dim=-1).T  # (R, B + N)
    own = torch.arange(len(queries), device=scores.device)[rows, None]  # (R, 1)
    ignored = torch.zeros_like(scores, dtype=torch.bool)
    if ids is not None:
        ignored |= _same_text(ids, rows)
    if margin is not None:
        ignored |= scores.detach() > scores.detach().gather(1, own) - margin
    if not in_batch:
        owners = torch.arange(len(positives), device=scores.device)
        if query_index is not None:
            owners = torch.cat([owners, query_index])
        ignored |= owners != own
    # After the division: the derivative of -inf / temperature is not a number.
    return (scores / temperature).masked_fill(ignored.scatter(1, own, False), -torch.inf)


def _same_text(ids: TextIds, rows: slice) -> Tensor:
    """Which candidates are right answers too, (R, B + N)."""
    query, positive = ids.query[rows, None], ids.positive[rows, None]  # (R, 1)
    candidates = torch.cat([ids.positive, ids.negative])
    same = (candidates == query) | (candidates == positive)
    same[:, : len(ids.query)] |= ids.query == query
    return same


def _check_rows(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor | None,
    in_batch: bool,
    query_index: Tensor | None,
) -> None:
    if len(queries) != len(positives):
        raise ValueError(
            f"info_nce expects one positive per query, but got {len(queries)} queries and "
            f"{len(positives)} positives."
        )
    owners = 0 if query_index is None else len(query_index)
    wanted = 0 if negatives is None else len(negatives)
    if owners != wanted and (owners or not in_batch):
        raise ValueError(
            f"info_nce expects a `query_index` for each negative, but got {owners} for {wanted}."
        )
    if not in_batch and not wanted:
        raise ValueError(
            "info_nce has nothing to compare the queries with: there are no hard negatives. Give "
            "some, or set `in_batch=True`."
        )
