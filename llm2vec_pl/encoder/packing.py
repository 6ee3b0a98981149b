"""Which texts share a batch, and where its real tokens lie once its texts are laid end to end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from llm2vec_pl.encoder.lengths import send, text_lengths


@dataclass(frozen=True)
class PackedTexts:
    """Where the T real tokens of a padded batch (B, L) lie once its texts are laid end to end.

    The shortest text comes first, so that texts of one length lie side by side.

    Args:
        groups: for each length, the shortest first: how many texts have it, and the length.
        index: the place in the flattened batch (B * L,) of each token, (T,).
        position_ids: the position of each token in its text, (T,).
        boundaries: where each text begins and the last one ends, (B + 1,), int32.
    """

    groups: tuple[tuple[int, int], ...]
    index: Tensor
    position_ids: Tensor
    boundaries: Tensor

    @property
    def longest(self) -> int:
        """The length of the longest text, in tokens."""
        return self.groups[-1][1]


def pack_texts(attention_mask: Tensor) -> PackedTexts | None:
    """Where the real tokens of a batch go; None where there is no padding to leave out.

    Where nobody has noted the lengths of the texts, a GPU has to be waited for.

    Args:
        attention_mask: 1 on real tokens, 0 on padding on whatever side, (B, L).

    >>> texts = pack_texts(torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 1]]))
    >>> texts.groups, texts.index.tolist()
    (((1, 1), (2, 3)), [3, 0, 1, 2, 6, 7, 8])
    """
    real, lengths = attention_mask.bool(), text_lengths(attention_mask)
    width = real.shape[1]
    if min(lengths, default=width) == width or max(lengths) == 0:
        return None
    order = sorted((row for row, length in enumerate(lengths) if length), key=lengths.__getitem__)
    ordered = torch.tensor([lengths[row] for row in order])  # (B,)
    ends = ordered.cumsum(0)
    rows = torch.tensor(order).repeat_interleave(ordered)  # (T,)
    positions = torch.arange(len(rows)) - (ends - ordered).repeat_interleave(ordered)  # (T,)
    rows, positions = send(rows, real.device), send(positions, real.device)
    columns = (~real).byte().argsort(dim=1, stable=True)  # (B, L): those of real tokens first
    return PackedTexts(
        groups=tuple((len(list(same)), length) for length, same in groupby(ordered.tolist())),
        index=rows * width + columns[rows, positions],
        position_ids=positions,
        boundaries=send(torch.cat([ends.new_zeros(1), ends]).int(), real.device),
    )


def batches_by_length(
    lengths: Sequence[int], batch_size: int, budget: float, padded: bool = False
) -> Iterator[list[int]]:
    """Batches of texts of like length, the longest first.

    Args:
        lengths: of the texts, in tokens.
        batch_size: texts in a batch, at most.
        budget: tokens in a batch, at most; a text longer than that goes alone.
        padded: whether a batch costs what its longest text costs, for each of its texts.

    Yields:
        The places of a batch's texts in `lengths`.

    >>> list(batches_by_length([3, 5, 1, 1], batch_size=2, budget=6))
    [[1], [0, 2], [3]]
    """
    batch: list[int] = []
    tokens = 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        cost = lengths[batch[0]] if padded and batch else lengths[row]
        if batch and (len(batch) == batch_size or tokens + cost > budget):
            yield batch
            batch, tokens, cost = [], 0, lengths[row]
        batch.append(row)
        tokens += cost
    if batch:
        yield batch
