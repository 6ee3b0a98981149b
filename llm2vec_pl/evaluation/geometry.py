"""How close positives are, and how embeddings fill the space: four numbers.

Alignment and uniformity: Wang and Isola 2020, "Understanding Contrastive Representation Learning
through Alignment and Uniformity on the Hypersphere", sections 4.1 and 4.2, with their constants.
Lower is better in both. Anisotropy and the effective rank have sources of their own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def alignment(first: Tensor, second: Tensor, alpha: float = 2.0) -> Tensor:
    """The mean distance, to the power `alpha`, of positive pairs on the unit sphere.

    Args:
        first: embeddings of one side of B pairs, (B, D), of any norm: they are normalised here.
        second: embeddings of the other side, (B, D), in the same order.
        alpha: 2 in the paper.

    Returns:
        A scalar in [0, 2 ** alpha]: 0 if all pairs coincide, 2 for random directions.

    Raises:
        ValueError: if the shapes differ, or there are no pairs.

    >>> alignment(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, -1.0]])).round()
    tensor(2.)
    """
    if first.shape != second.shape or not len(first):
        raise ValueError(
            "alignment expects the two sides of at least one pair, but got embeddings with the "
            f"shapes {tuple(first.shape)} and {tuple(second.shape)}."
        )
    distances: Tensor = (F.normalize(first.float()) - F.normalize(second.float())).norm(dim=1)
    return distances.pow(alpha).mean()


def uniformity(embeddings: Tensor, t: float = 2.0, chunk_size: int = 1024) -> Tensor:
    """The logarithm of the mean Gaussian potential of all pairs of distinct texts.

    Args:
        embeddings: embeddings of N texts, (N, D), of any norm: they are normalised here.
        t: the potential of two texts is exp(-t * squared distance); 2 in the paper.
        chunk_size: number of rows compared with all others at once, which bounds the memory.

    Returns:
        A scalar in [-4 t, 0]: 0 if all texts coincide, near -2 t if they are spread evenly in many
        dimensions.

    Raises:
        ValueError: for fewer than two texts.

    >>> uniformity(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])).item()
    -8.0
    """
    count = len(embeddings)
    if count < 2:
        raise ValueError(f"uniformity expects at least two embeddings, but got {count}.")
    points = F.normalize(embeddings.float())
    total = torch.zeros((), dtype=torch.float64, device=points.device)
    for start in range(0, count, chunk_size):
        chunk = points[start : start + chunk_size]
        rows = torch.arange(len(chunk), device=points.device)
        cosines = chunk @ points.T  # (C, N)
        potentials = (2 * t * (cosines - 1)).double().exp()  # |x - y|^2 = 2 - 2 cos
        total = total + potentials.sum() - potentials[rows, rows + start].sum()  # not with itself
    return (total / (count * (count - 1))).log().float()


def anisotropy(embeddings: Tensor) -> Tensor:
    """The mean cosine of all pairs of distinct texts (Ethayarajh 2019, section 3.4).

    Args:
        embeddings: embeddings of N texts, (N, D), of any norm: they are normalised here.

    Returns:
        A scalar in [-1, 1]: 1 if all texts point in the same direction, 0 if in all directions.

    Raises:
        ValueError: for fewer than two texts.

    >>> anisotropy(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])).item()  # 0, -1 and 0
    -0.3333333432674408
    """
    count = len(embeddings)
    if count < 2:
        raise ValueError(f"anisotropy expects at least two embeddings, but got {count}.")
    points = F.normalize(embeddings.double())
    # The square of the sum holds all pairs, and each text with itself.
    total = points.sum(dim=0).square().sum() - points.square().sum()
    return (total / (count * (count - 1))).float()


def effective_rank(embeddings: Tensor) -> Tensor:
    """How many dimensions embeddings use: RankMe (Garrido et al. 2023, equation 1).

    The exponential of the entropy of the singular values, divided by their sum.

    Args:
        embeddings: embeddings of N texts, (N, D), as they are: neither normalised nor centred.

    Returns:
        A scalar in [1, min(N, D)]; 0 if all embeddings are 0.

    Raises:
        ValueError: if there are no embeddings.

    >>> effective_rank(torch.eye(4)).round()
    tensor(4.)
    """
    if not embeddings.numel():
        raise ValueError("effective_rank expects at least one embedding, but got none.")
    values = torch.linalg.svdvals(embeddings.double())
    if not values.sum():
        return torch.zeros(())
    entropy: Tensor = torch.special.entr(values / values.sum()).sum()
    return entropy.exp().float()
