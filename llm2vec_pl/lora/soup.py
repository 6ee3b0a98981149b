"""Soups of adapters: one LoRA whose update is the average of the updates of several.

A LoRA changes a weight by s·B·A. The average of the A's times the average of the B's is not the
average of these products: it mixes the A of one run with the B of another. The products are
therefore averaged, and exactly: with the A's below one another and the B's, scaled, beside one
another, one product of summed rank is the sum of all. A singular value decomposition brings it
back to a smaller rank if asked to, at a loss that is told.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llm2vec_pl.lora.adapters import PREFIX, read_adapter
from llm2vec_pl.lora.alike import require_alike, require_product
from llm2vec_pl.lora.slerp import slerp_coefficients

PART = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<part>[AB])(\.weight)?")


class Pair(NamedTuple):
    """The two matrices of a LoRA on one weight, whose update is B·A.

    Args:
        a: (R, I), float64.
        b: (O, R), float64, with the scale in it.
    """

    a: Tensor
    b: Tensor


class Soup(NamedTuple):
    """An adapter that was made from others.

    Args:
        config: the entries of adapter_config.json that differ from those of the parents'.
        weights: in float32, by peft's keys.
        rank: of most of its pairs.
        layers: number of weights that it changes.
        lost: the share of the updates' norm that a smaller rank leaves out, over all layers.
        most_lost: the same for the layer that loses most, and its name.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    rank: int
    layers: int
    lost: float
    most_lost: tuple[float, str]


def average_adapters(
    folders: Sequence[str], shares: Sequence[float], rank: int | None = None, slerp: bool = False
) -> Soup:
    """The LoRA whose update of each weight is the average of the updates of several.

    Args:
        folders: of adapters of one form.
        shares: the weight of each, of sum 1.
        rank: of the result at most; None for the exact average, of the summed rank.
        slerp: interpolate between two on the sphere, weight by weight, in place of the line.

    Returns:
        The adapter, of scale 1.

    Raises:
        UserError: if an adapter cannot be read, is no plain LoRA, or differs in form from another.
    """
    read = [read_adapter(folder) for folder in folders]
    for folder, (weights, config) in zip(folders, read, strict=True):
        require_product(folder, weights, config)
        require_alike((folders[0], folder), (read[0][0], weights), (read[0][1], config))
    adapters = [weights for weights, _ in read]
    mixed: dict[str, Tensor] = {}
    ranks, lost, norms = {}, {}, {}
    for module, keys in _modules(adapters[0]).items():
        pairs = [_pair(weights, keys, read[0][1], module) for weights in adapters]
        pair = stacked(pairs, _coefficients(pairs, shares, slerp))
        if rank is not None:
            pair, lost[module], norms[module] = reduced(pair, rank)
        mixed |= {keys["A"]: pair.a, keys["B"]: pair.b}
        ranks[module] = len(pair.a)
    for key in adapters[0].keys() - mixed.keys():  # biases, and modules that are saved whole
        mixed[key] = _mean([weights[key].double() for weights in adapters], shares, slerp)
    usual = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
    return Soup(
        _configuration(ranks, usual),
        {f"{PREFIX}{key}": value.float().contiguous() for key, value in mixed.items()},
        usual,
        len(ranks),
        _root_share(sum(lost.values()), sum(norms.values())),
        max(((_root_share(lost[m], norms[m]), m) for m in lost), default=(0.0, "")),
    )


def stacked(pairs: Sequence[Pair], coefficients: Sequence[float]) -> Pair:
    """One pair whose product is the sum of several products, each times a coefficient.

    Pairs with the coefficient 0 are left out, so that they add no rank.

    >>> one, other = torch.ones(1, 2), torch.eye(2)
    >>> pair = stacked([Pair(one, one.T), Pair(other, other)], [0.5, 2.0])
    >>> pair.b @ pair.a
    tensor([[2.5000, 0.5000],
            [0.5000, 2.5000]])
    """
    used = [(pair, c) for pair, c in zip(pairs, coefficients, strict=True) if c]
    used = used or [(pairs[0], 0.0)]
    a = torch.cat([pair.a for pair, _ in used])
    return Pair(a, torch.cat([c * pair.b for pair, c in used], dim=1))


def reduced(pair: Pair, rank: int) -> tuple[Pair, float, float]:
    """The pair of a smaller rank whose product is nearest to this one's (Eckart and Young 1936).

    The product itself, (O, I), is never made.

    Returns:
        The pair, the squared norm of what it leaves out, and that of the whole product.
    """
    left, upper = torch.linalg.qr(pair.b)  # (O, K), (K, R)
    right, lower = torch.linalg.qr(pair.a.T)  # (I, K'), (K', R)
    u, s, vt = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    squares = s.square()
    root = s[:rank].sqrt()
    smaller = Pair(root[:, None] * (vt[:rank] @ right.T), (left @ u[:, :rank]) * root)
    return smaller, squares[rank:].sum().item(), squares.sum().item()


def _modules(weights: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """For each adapted module, its keys by "A" and "B"."""
    found: dict[str, dict[str, str]] = {}
    for key in weights:
        if match := PART.fullmatch(key):
            found.setdefault(match["module"], {})[match["part"]] = key
    return found


def _pair(weights: Mapping[str, Tensor], keys: Mapping[str, str], config: Any, module: str) -> Pair:
    """A module's pair, with the scale of its configuration in B."""
    from peft.utils.other import get_pattern_key

    a, b = weights[keys["A"]].double(), weights[keys["B"]].double()
    key = get_pattern_key(list(config.alpha_pattern), module)
    alpha = config.alpha_pattern.get(key, config.lora_alpha)
    return Pair(a, b * (alpha / (len(a) ** 0.5 if config.use_rslora else len(a))))


def _coefficients(pairs: Sequence[Pair], shares: Sequence[float], slerp: bool) -> Sequence[float]:
    """What each product is multiplied by."""
    if not slerp:
        return shares
    one, other = pairs
    norms = [_inner(pair, pair) ** 0.5 for pair in pairs]
    return slerp_coefficients(_inner(one, other), norms[0], norms[1], shares[1])


def _inner(one: Pair, other: Pair) -> float:
    """The inner product of two products, which are not made for it: tr(Aᵀ Bᵀ B' A')."""
    value = ((one.b.T @ other.b) * (one.a @ other.a.T)).sum().item()
    return max(value, 0.0) if one is other else value


def _mean(values: Sequence[Tensor], shares: Sequence[float], slerp: bool) -> Tensor:
    if slerp:
        one, other = values
        norms = one.norm().item(), other.norm().item()
        shares = slerp_coefficients((one * other).sum().item(), *norms, shares[1])
    return sum(
        (share * value for share, value in zip(shares, values, strict=True) if share),
        torch.zeros_like(values[0]),
    )


def _configuration(ranks: Mapping[str, int], usual: int) -> dict[str, Any]:
    """The entries that say the ranks; with an alpha as large as the rank, the scale is 1."""
    others = {module: rank for module, rank in ranks.items() if rank != usual}
    return {
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "use_rslora": False,
        "init_lora_weights": True,
    }


def _root_share(part: float, whole: float) -> float:
    return (max(part, 0.0) / whole) ** 0.5 if whole else 0.0
