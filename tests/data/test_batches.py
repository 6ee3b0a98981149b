from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2vec_pl.data.examples.batches import (
    TaskBatch,
    TaskBatchSampler,
    TaskRows,
    rows_of_epoch,
)
from llm2vec_pl.data.resuming.resumable import ResumableLoader
from llm2vec_pl.errors import UserError

SIZES = st.lists(st.integers(0, 60), min_size=1, max_size=4)
WEIGHTS = st.sampled_from([1.0, 0.1, 0.5, 2.0])


def tasks_of(sizes: list[int], weight: float = 1.0) -> list[TaskRows]:
    lengths = [np.random.default_rng(size).integers(1, 1000, size) for size in sizes]
    return [TaskRows(f"task{i}", some, weight) for i, some in enumerate(lengths)]


def epoch_of(
    tasks: list[TaskRows], world_size: int = 1, epoch: int = 0, batch_size: int = 4, **options: int
) -> list[list[TaskBatch]]:
    """The batches of each rank."""
    ranks = []
    for rank in range(world_size):
        sampler = TaskBatchSampler([], tasks, batch_size, rank, world_size, **options)  # type: ignore[arg-type]
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        ranks.append(batches)
    return ranks


def used(ranks: list[list[TaskBatch]]) -> Counter[tuple[int, int]]:
    return Counter((b.task, row) for batches in ranks for b in batches for row in b.rows)


@settings(deadline=None, max_examples=60)
@given(SIZES, st.integers(1, 5), st.integers(1, 9), st.integers(0, 3), WEIGHTS)
def test_every_global_batch_is_of_one_task_on_all_ranks(
    sizes: list[int], world_size: int, batch_size: int, epoch: int, weight: float
) -> None:
    ranks = epoch_of(tasks_of(sizes, weight), world_size, epoch, batch_size)
    for shares in zip(*ranks, strict=True):
        assert len({share.task for share in shares}) == 1
        assert len({share.number for share in shares}) == 1
        rows = [len(share.rows) for share in shares]
        assert min(rows) >= 1
        assert max(rows) - min(rows) <= 1
        assert 2 <= sum(rows) <= batch_size * world_size or batch_size * world_size == 1


@settings(deadline=None, max_examples=60)
@given(SIZES, st.integers(1, 4), st.integers(0, 3))
def test_an_epoch_uses_each_row_once_but_those_it_counts_as_left_over(
    sizes: list[int], world_size: int, epoch: int
) -> None:
    tasks = tasks_of(sizes)
    counts = used(epoch_of(tasks, world_size, epoch))
    assert set(counts.values()) <= {1}
    left = TaskBatchSampler([], tasks, 4, 0, world_size).left_over  # type: ignore[arg-type]
    assert sum(sizes) - counts.total() == sum(left.values())
    assert all(count < max(2, world_size) for count in left.values())


def test_what_is_left_over_differs_by_epoch() -> None:
    tasks = tasks_of([9])
    missing = {
        next(iter(set(range(9)) - {row for _, row in used(epoch_of(tasks, epoch=epoch))}))
        for epoch in range(20)
    }
    assert len(missing) > 3


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    tasks = tasks_of([50, 30])
    first = epoch_of(tasks, seed=1)
    assert epoch_of(tasks, seed=1) == first
    assert epoch_of(tasks, seed=1, epoch=1) != first
    assert epoch_of(tasks, seed=2) != first
    names = [batch.task for batch in first[0]]
    assert names != sorted(names)


def test_ranks_share_the_batches_of_one_process() -> None:
    tasks = tasks_of([50, 30])
    alone = epoch_of(tasks, batch_size=8)[0]
    ranks = epoch_of(tasks, world_size=2, batch_size=4)
    for whole, *shares in zip(alone, *ranks, strict=True):
        assert sorted(row for share in shares for row in share.rows) == sorted(whole.rows)


def test_another_task_does_not_change_the_rows_of_an_epoch() -> None:
    task = tasks_of([40], weight=0.5)[0]
    rows = rows_of_epoch(task, seed=0, epoch=3)
    batches = epoch_of([*tasks_of([7]), task._replace(name="other"), task], epoch=3)[0]
    assert sorted(row for b in batches if b.task == 2 for row in b.rows) == sorted(rows)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 200), st.sampled_from([0.1, 0.2, 0.3, 0.5, 1.0]))
def test_a_share_of_a_task_walks_through_all_its_rows(size: int, weight: float) -> None:
    task = tasks_of([size], weight)[0]
    count = len(rows_of_epoch(task, seed=0, epoch=0))
    assert count == max(1, round(size * weight))
    epochs = -(-size // count)
    seen = [row for epoch in range(epochs) for row in rows_of_epoch(task, 0, epoch)]
    assert len(set(seen[:size])) == size


def test_a_weight_of_two_repeats_each_row_once() -> None:
    assert set(used(epoch_of(tasks_of([20], weight=2.0))).values()) == {2}


def test_a_weight_of_nought_leaves_a_task_out() -> None:
    tasks = [*tasks_of([20]), *(task._replace(weight=0.0) for task in tasks_of([30]))]
    assert {batch.task for batch in epoch_of(tasks)[0]} == {0}


def test_a_batch_holds_texts_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 2000)
    batches = epoch_of([TaskRows("a", lengths)], batch_size=20)[0]
    spread = np.mean([np.ptp(lengths[batch.rows]) for batch in batches])
    shuffled = np.mean([np.ptp(lengths[batch]) for batch in np.arange(2000).reshape(-1, 20)])
    assert spread < 0.1 * shuffled
    means = [lengths[batch.rows].mean() for batch in batches]
    assert means != sorted(means)


def test_without_shuffling_each_row_comes_once_in_the_same_order_always() -> None:
    tasks = tasks_of([20, 10], weight=0.1)
    first = epoch_of(tasks, shuffle=False, seed=1)
    assert epoch_of(tasks, shuffle=False, seed=2, epoch=5) == first
    assert len(used(first)) == 30


class Echo:
    """A data set whose batches are their own names."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, batch: TaskBatch) -> TaskBatch:
        return batch


def loader_of(size: int = 50, batch_size: int = 4, num_workers: int = 0) -> ResumableLoader:
    sampler = TaskBatchSampler(Echo(), tasks_of([size, 30]), batch_size)  # type: ignore[arg-type]
    return ResumableLoader(Echo(), sampler, num_workers, collate_fn=lambda batch: batch)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 7, 20])
def test_a_loader_goes_on_with_the_very_next_batch(num_workers: int, stop: int) -> None:
    first = loader_of(num_workers=num_workers)
    first.sampler.set_epoch(3)
    handed_out = list(islice(first, stop))
    state = first.state_dict()
    second = loader_of(num_workers=num_workers)
    second.load_state_dict(state)
    second.sampler.set_epoch(3)
    rest = list(second)
    whole = loader_of()
    whole.sampler.set_epoch(3)
    assert handed_out + rest == list(whole)
    second.sampler.set_epoch(4)
    assert len(list(second)) == len(second)


def test_a_state_of_another_epoch_starts_the_epoch_anew() -> None:
    loader = loader_of()
    loader.load_state_dict({**loader.state_dict(), "batches": 7, "epoch": 2})
    loader.sampler.set_epoch(3)
    assert len(list(loader)) == len(loader)


@pytest.mark.parametrize("change", [{"batch_size": 5}, {"size": 60}])
def test_the_middle_of_an_epoch_with_other_batches_is_refused(change: dict[str, int]) -> None:
    loader = loader_of()
    list(islice(loader, 2))
    other = loader_of(**change)
    other.load_state_dict(loader.state_dict())
    with pytest.raises(UserError, match=r"middle of an epoch.*`batch_size`"):
        next(iter(other))


@settings(deadline=None, max_examples=60)
@given(
    SIZES, st.sampled_from([(1, 12), (2, 6), (3, 4), (4, 3), (6, 2), (12, 1)]), st.integers(0, 9)
)
def test_other_ranks_with_as_large_global_batches_go_on_in_the_same_order(
    sizes: list[int], ranks: tuple[int, int], start: int
) -> None:
    tasks = tasks_of(sizes)

    def batches(world_size: int, batch_size: int) -> list[tuple[int, int, list[int]]]:
        shares = []
        for rank in range(world_size):
            sampler = TaskBatchSampler([], tasks, batch_size, rank, world_size)  # type: ignore[arg-type]
            sampler.start = start
            shares.append(list(sampler))
        return [
            (some[0].number, some[0].task, sorted(row for share in some for row in share.rows))
            for some in zip(*shares, strict=True)
        ]

    world_size, batch_size = ranks
    whole = batches(1, 12)
    assert batches(world_size, batch_size) == [b for b in whole if len(b[2]) >= world_size]


def test_the_middle_of_an_epoch_goes_on_with_other_ranks() -> None:
    first = loader_of(batch_size=4)
    handed_out = list(islice(first, 3))
    rows: list[list[int]] = []
    for rank in range(2):
        sampler = TaskBatchSampler(Echo(), tasks_of([50, 30]), 2, rank, 2)  # type: ignore[arg-type]
        second = ResumableLoader(Echo(), sampler, collate_fn=lambda batch: batch)  # type: ignore[arg-type]
        second.load_state_dict(first.state_dict())
        rows = [[*a, *b.rows] for a, b in zip(rows or [[]] * 99, second, strict=False)]
    rest = list(loader_of(batch_size=4))[len(handed_out) :]
    assert [sorted(some) for some in rows] == [sorted(batch.rows) for batch in rest]
