"""How far a student's similarities and embeddings are from a teacher's; in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def in_batch_kl(
    student: Tensor, teacher: Tensor, temperature: float, ignored: Tensor, rows: slice
) -> Tensor:
    """For each text, how differently student and teacher rank the others of the batch.

    KL(teacher || student) of the softmax over cosine similarities divided by the temperature
    (Hinton et al. 2015, section 2, with similarities as logits; not multiplied by the square of the
    temperature).

    Args:
        student: (T, D), of any norm: embeddings are normalised here.
        teacher: (T, Dt), of another size perhaps.
        temperature: divides the similarities of both.
        ignored: which texts a text is not compared with, (R, T), itself among them.
        rows: the R texts to compute the divergence of.

    Returns:
        Nats, (R,). They are 0 for a text that is compared with one other or none.
    """
    log_p, log_q = (
        _log_shares(cosines(embeddings, rows) / temperature, ignored)
        for embeddings in (teacher, student)
    )
    return (log_p.exp().masked_fill(ignored, 0.0) * (log_p - log_q)).sum(dim=1)


def _log_shares(scores: Tensor, ignored: Tensor) -> Tensor:
    """Logarithms of the softmax over a row, (R, T); 0 in the place of what is ignored."""
    alone = ignored.all(dim=1, keepdim=True)  # a softmax over nothing has no gradient
    shares = scores.masked_fill(ignored & ~alone, -torch.inf).log_softmax(dim=1)
    return shares.masked_fill(ignored, 0.0)


def cosines(embeddings: Tensor, rows: slice) -> Tensor:
    """Cosine similarities of some rows with all of them, (R, T)."""
    # Autocast would multiply in half precision, where close texts score the same.
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = F.normalize(embeddings.float(), dim=-1)
        return unit[rows] @ unit.T


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - the cosine of each student's embedding with its teacher's, (R, Dt) each -> (R,)."""
    return 1.0 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)


def correlation(student: Tensor, teacher: Tensor, counted: Tensor) -> Tensor:
    """Pearson's correlation of two matrices of similarities, where `counted`; a scalar.

    0 if one of them does not vary there.
    """
    count = counted.sum()
    x, y = ((scores - (scores * counted).sum() / count) * counted for scores in (student, teacher))
    scale = (x.square().sum() * y.square().sum()).sqrt()
    return (x * y).sum() / scale.clamp(min=torch.finfo(scale.dtype).tiny)


def other_texts(ids: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
    """Which texts count, and which ones a text is not compared with.

    A text that occurs several times counts once.

    Args:
        ids: equal for equal texts, (T,).
        rows: the R texts to compare with all.

    Returns:
        Whether each of the texts is the first of its kind, (T,); and whether a text is ignored,
        (R, T), because it is the same or not the first of its kind.
    """
    same = ids[:, None] == ids[None, :]  # (T, T)
    first = ~same.tril(diagonal=-1).any(dim=1)
    return first, same[rows] | ~first
