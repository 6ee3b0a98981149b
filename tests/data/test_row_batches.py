from __future__ import annotations

from collections import Counter
from itertools import chain, islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data.distributed import DistributedSampler

from llm2vec_pl.data.blocks.row_batches import RowBatchSampler, RowsOf
from llm2vec_pl.data.resuming.resumable import ResumableLoader
from llm2vec_pl.errors import UserError

ROWS = st.integers(1, 60)
RANKS = st.integers(1, 5)
SIZES = st.integers(1, 9)


def ranks_of(
    rows: int, world_size: int = 1, batch_size: int = 4, start: int = 0, epoch: int = 0, **more
) -> list[list[list[int]]]:
    """The batches of each rank."""
    ranks = []
    for rank in range(world_size):
        sampler = RowBatchSampler(range(rows), batch_size, rank, world_size, **more)  # type: ignore[arg-type]
        sampler.set_epoch(epoch)
        sampler.start = start
        batches = list(sampler)
        assert len(batches) == len(sampler.batch_ends(start))
        ranks.append(batches)
    return ranks


def in_order(ranks: list[list[list[int]]], rows: int) -> list[int]:
    """The rows of the global batches, without what is repeated in the last one."""
    found: list[int] = []
    for shares in zip(*ranks, strict=True):
        longest = max(map(len, shares))
        found += [share[i] for i in range(longest) for share in shares if i < len(share)]
    return found[:rows]


@settings(deadline=None, max_examples=80)
@given(ROWS, RANKS, SIZES, st.integers(0, 3))
def test_every_row_comes_once_an_epoch_and_all_ranks_have_as_many_batches(
    rows: int, world_size: int, batch_size: int, epoch: int
) -> None:
    ranks = ranks_of(rows, world_size, batch_size, epoch=epoch)
    used = Counter(row for batches in ranks for batch in batches for row in batch)
    assert set(used) == set(range(rows))
    last = rows % (world_size * batch_size)
    assert used.total() - rows == (world_size - last if 0 < last < world_size else 0)
    for shares in zip(*ranks, strict=True):
        assert 1 <= min(map(len, shares)) <= max(map(len, shares)) <= batch_size
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@settings(deadline=None, max_examples=80)
@given(ROWS, RANKS, SIZES, st.integers(0, 3))
def test_the_order_is_that_of_one_process(
    rows: int, world_size: int, batch_size: int, epoch: int
) -> None:
    ranks = ranks_of(rows, world_size, batch_size, epoch=epoch)
    alone = ranks_of(rows, 1, world_size * batch_size, epoch=epoch)
    assert in_order(ranks, rows) == in_order(alone, rows)


@settings(deadline=None, max_examples=80)
@given(ROWS, st.lists(st.tuples(RANKS, SIZES, st.integers(0, 4)), min_size=1, max_size=4))
def test_an_epoch_cut_anywhere_and_gone_on_with_by_others_keeps_the_order(
    rows: int, runs: list[tuple[int, int, int]]
) -> None:
    found: list[int] = []
    position = 0
    for number, (world_size, batch_size, batches) in enumerate(runs):
        until_killed = None if number == len(runs) - 1 else batches
        ranks = ranks_of(rows, world_size, batch_size, start=position)
        ends = RowBatchSampler(range(rows), batch_size, 0, world_size).batch_ends(position)  # type: ignore[arg-type]
        used = [one[:until_killed] for one in ranks]
        found += in_order(used, min(rows, ends[: len(used[0])][-1]) - position) if used[0] else []
        position = ends[len(used[0]) - 1] if used[0] else position
    assert found == in_order(ranks_of(rows), rows)


@pytest.mark.parametrize("shuffle", [True, False])
def test_one_process_has_the_order_of_a_distributed_sampler(shuffle: bool) -> None:
    (batches,) = ranks_of(50, epoch=2, seed=3, shuffle=shuffle)
    sampler = DistributedSampler(range(50), 1, 0, shuffle=shuffle, seed=3)  # type: ignore[arg-type]
    sampler.set_epoch(2)
    assert [row for batch in batches for row in batch] == list(sampler)


def test_validation_on_two_ranks_is_that_on_one() -> None:
    ranks = ranks_of(20, 2, batch_size=3, shuffle=False)
    assert sorted(row for batches in ranks for batch in batches for row in batch) == [*range(20)]


class Numbers:
    def __len__(self) -> int:
        return 50

    def __getitem__(self, row: int) -> int:
        return row


def loader_of(batch_size: int = 4, num_workers: int = 0) -> ResumableLoader:
    sampler = RowBatchSampler(Numbers(), batch_size)  # type: ignore[arg-type]
    return ResumableLoader(RowsOf(Numbers()), sampler, num_workers, collate_fn=list)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [4, 3, 16])
def test_a_loader_goes_on_with_the_very_next_row(num_workers: int, batch_size: int) -> None:
    first = loader_of(num_workers=num_workers)
    handed_out = list(islice(first, 5))
    second = loader_of(batch_size, num_workers)
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert [*chain.from_iterable(handed_out + rest)] == [*chain.from_iterable(loader_of())]
    assert all(len(batch) == batch_size for batch in rest[:-1])
    assert len(list(second)) == len(second)


def test_a_state_that_was_not_yet_gone_on_from_is_handed_on() -> None:
    first = loader_of()
    list(islice(first, 5))
    second = loader_of()
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()


def test_the_middle_of_an_epoch_of_other_data_is_refused() -> None:
    loader = loader_of()
    list(islice(loader, 2))
    loader.load_state_dict({**loader.state_dict(), "rows": 1234})
    with pytest.raises(UserError, match=r"rows 1,234, but now it is 50\. Use the same data\."):
        next(iter(loader))


def test_loading_draws_no_random_numbers_of_the_training() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(loader_of(num_workers=1))
    assert torch.rand(1) == expected
