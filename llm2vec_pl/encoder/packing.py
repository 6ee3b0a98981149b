"""Which texts share a batch, and where its real tokens go when its texts are laid end to end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from llm2vec_pl.encoder.lengths import send, text_lengths


@dataclass(frozen=True)
class PackedTexts:
    """Where the T real tokens of a padded batch (B, L) go when its texts are laid end to end.

    The shortest text comes first, so that texts of the same length are next to each other.

    Args:
        groups: (number of texts, length) for each length, the shortest first.
        index: the place of each token in the flattened batch (B * L,), (T,).
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


def pack_texts(attention_mask: Tensor, lengths: Sequence[int] | None = None) -> PackedTexts | None:
    """Where the real tokens of a batch go; None if there is no padding to leave out.

    Args:
        attention_mask: 1 on real tokens, 0 on padding on either side, (B, L).
        lengths: of its texts, (B,), if the host knows them; otherwise it has to wait for a GPU.

    >>> texts = pack_texts(torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 1]]))
    >>> texts.groups, texts.index.tolist()
    (((1, 1), (2, 3)), [3, 0, 1, 2, 6, 7, 8])
    """
    real, lengths = attention_mask.bool(), text_lengths(attention_mask, lengths)
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
    """Batches of texts of similar length, the longest first.

    Args:
        lengths: of the texts, in tokens.
        batch_size: most texts in a batch.
        budget: most tokens in a batch; a text longer than that goes alone.
        padded: whether each text in a batch costs as much as the longest.

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
