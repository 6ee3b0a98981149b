from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2vec_pl.data.examples.batches import TaskBatch, TaskBatchSampler, TaskRows
from llm2vec_pl.data.examples.token_batches import TokenBatchSampler
from llm2vec_pl.data.resuming.resumable import ResumableLoader
from llm2vec_pl.errors import UserError

TOKENS = st.lists(st.integers(1, 100), max_size=120)
TASKS = st.lists(TOKENS, min_size=1, max_size=3)
RANKS = st.integers(1, 5)
BATCH_SIZES = st.integers(1, 12)
BUDGETS = st.integers(200, 900)  # two of the largest rows fit


def tasks_of(tokens: list[list[int]], weight: float = 1.0) -> list[TaskRows]:
    return [TaskRows(f"task{i}", np.array(t, np.int64), weight) for i, t in enumerate(tokens)]


def many(rows: int = 2000, weight: float = 1.0) -> TaskRows:
    tokens = np.random.default_rng(rows).lognormal(4, 0.6, rows).astype(np.int64)
    return TaskRows("many", tokens.clip(5, 300), weight)


def epoch_of(
    tasks: list[TaskRows],
    max_tokens: int = 900,
    world_size: int = 1,
    epoch: int = 0,
    batch_size: int = 32,
    **options: int,
) -> list[list[TaskBatch]]:
    """The batches of each rank."""
    ranks = []
    for rank in range(world_size):
        sampler = TokenBatchSampler([], tasks, batch_size, max_tokens, rank, world_size, **options)  # type: ignore[arg-type]
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        ranks.append(batches)
    return ranks


def used(ranks: list[list[TaskBatch]]) -> Counter[tuple[int, int]]:
    return Counter((b.task, row) for batches in ranks for b in batches for row in b.rows)


def left_over(tasks: list[TaskRows], max_tokens: int, world_size: int, batch_size: int) -> int:
    sampler = TokenBatchSampler([], tasks, batch_size, max_tokens, 0, world_size)  # type: ignore[arg-type]
    return sum(sampler.left_over.values())


@settings(deadline=None, max_examples=150)
@given(TASKS, BUDGETS, RANKS, BATCH_SIZES, st.integers(0, 3), st.sampled_from([1.0, 0.3, 2.0]))
def test_no_batch_goes_above_its_limits_on_any_rank(
    tokens: list[list[int]],
    max_tokens: int,
    world_size: int,
    batch_size: int,
    epoch: int,
    weight: float,
) -> None:
    tasks = tasks_of(tokens, weight)
    ranks = epoch_of(tasks, max_tokens, world_size, epoch, batch_size)
    for shares in zip(*ranks, strict=True):
        assert len({(share.task, share.number) for share in shares}) == 1
        rows = [len(share.rows) for share in shares]
        assert 1 <= min(rows) <= max(rows) <= min(batch_size, min(rows) + 1)
        assert sum(rows) >= 2 or batch_size * world_size == 1
        for share in shares:
            assert tasks[share.task].lengths[share.rows].sum() <= max_tokens


@settings(deadline=None, max_examples=100)
@given(TASKS, BUDGETS, RANKS, BATCH_SIZES)
def test_every_epoch_has_as_many_batches_and_uses_a_row_once_or_leaves_it_over(
    tokens: list[list[int]], max_tokens: int, world_size: int, batch_size: int
) -> None:
    tasks = tasks_of(tokens)
    left = left_over(tasks, max_tokens, world_size, batch_size)
    lengths = set()
    for epoch in range(3):
        ranks = epoch_of(tasks, max_tokens, world_size, epoch, batch_size)
        counts = used(ranks)
        assert set(counts.values()) <= {1}
        assert sum(map(len, tokens)) - counts.total() == left
        lengths |= {len(batches) for batches in ranks}
    assert len(lengths) == 1


@pytest.mark.parametrize(("batch_size", "max_tokens"), [(512, 4096), (64, 8192), (512, 800)])
@pytest.mark.parametrize("world_size", [1, 4])
def test_batches_are_full(batch_size: int, max_tokens: int, world_size: int) -> None:
    """All but those that end a window have no room for another row of their length."""
    task = many(8000)
    (batches, *_) = epoch_of([task], max_tokens, world_size, batch_size=batch_size)
    tokens = sum(task.lengths[batch.rows].sum() for batch in batches)
    by_tokens = tokens / (len(batches) * max_tokens)
    by_rows = sum(len(batch.rows) for batch in batches) / (len(batches) * batch_size)
    assert max(by_tokens, by_rows) > 0.8


def test_a_batch_holds_texts_of_like_length_in_random_order() -> None:
    task = many(20_000)
    (batches,) = epoch_of([task], 2000)
    spread = np.mean([np.ptp(task.lengths[batch.rows]) for batch in batches])
    assert spread < 0.1 * np.ptp(task.lengths)
    means = [task.lengths[batch.rows].mean() for batch in batches]
    assert means != sorted(means)


def test_the_rows_of_a_batch_are_others_in_each_epoch_of_a_small_task_too() -> None:
    task = many(300)
    epochs = [
        {frozenset(batch.rows) for batch in epoch_of([task], 1500, epoch=epoch)[0]}
        for epoch in range(4)
    ]
    assert all(not a & b for a, b in pairwise(epochs))


def test_what_is_left_over_differs_by_epoch() -> None:
    """Where batches are as small as they may be."""
    for task in (TaskRows("same", np.full(61, 100)), TaskRows("any", 60 + np.arange(61) % 41)):
        tasks, options = [task], {"max_tokens": 100, "world_size": 4}
        everything = set(range(len(tasks[0].lengths)))
        left = [
            everything - {row for _, row in used(epoch_of(tasks, epoch=epoch, **options))}
            for epoch in range(12)
        ]
        assert {len(rows) for rows in left} == {len(left[0])}
        assert len(set.union(*left)) > 3 * len(left[0]) > 0


def test_an_epoch_leaves_out_less_than_a_row_of_each_window() -> None:
    for rows in (500, 2000, 5000):
        assert left_over([many(rows)], 3000, 1, 512) < 0.01 * rows


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    tasks = [many(), *tasks_of([[7] * 90])]
    first = epoch_of(tasks, seed=1)
    assert epoch_of(tasks, seed=1) == first
    assert epoch_of(tasks, seed=1, epoch=1) != first
    assert epoch_of(tasks, seed=2) != first
    names = [batch.task for batch in first[0]]
    assert names != sorted(names)


def test_without_shuffling_each_row_comes_once_in_the_same_order_always() -> None:
    tasks = [many(300, weight=0.1)]
    first = epoch_of(tasks, shuffle=False, seed=1)
    assert epoch_of(tasks, shuffle=False, seed=2, epoch=5) == first
    assert len(used(first)) == 300


def test_ten_epochs_of_a_tenth_use_each_row_once() -> None:
    tasks = [TaskRows("tenths", np.full(2000, 50), weight=0.1)]
    epochs = [epoch_of(tasks, 1000, epoch=epoch) for epoch in range(10)]  # 20 rows a batch
    assert {len(ranks[0]) for ranks in epochs} == {10}
    assert sum(map(used, epochs), Counter()) == dict.fromkeys([(0, row) for row in range(2000)], 1)


def test_a_weight_of_two_repeats_each_row_once_and_one_of_nought_none() -> None:
    twice = TaskRows("twice", np.full(400, 50), weight=2.0)
    counts = used(epoch_of([twice, many(400, weight=0.0)], 1000))
    assert counts == dict.fromkeys([(0, row) for row in range(400)], 2)


def test_another_task_does_not_change_the_rows_of_an_epoch() -> None:
    task = many(weight=0.5)
    alone = epoch_of([task], epoch=3)[0]
    beside = epoch_of([TaskRows("other", np.full(50, 9)), task], epoch=3)[0]
    assert sorted(b.rows for b in alone) == sorted(b.rows for b in beside if b.task == 1)


@pytest.mark.parametrize(
    ("lengths", "world_size", "complaint"),
    [
        ([1, 90, 111], 1, r"least 2 of its .* largest have 90 and 111 tokens\. Set at least 201,"),
        ([1, 90, 201], 2, r"least 1 of its .* largest have 201 tokens\. Set at least 201,"),
        ([201], 1, r"Set at least 201, or a smaller `encoder\.max_length`"),
    ],
)
def test_examples_too_large_for_the_budget_are_an_error(
    lengths: list[int], world_size: int, complaint: str
) -> None:
    with pytest.raises(UserError, match=r"^`max_tokens=200` is too small for task0.*") as at:
        epoch_of(tasks_of([lengths]), 200, world_size)
    at.match(complaint)


def test_as_little_as_the_largest_examples_need_is_enough() -> None:
    assert used(epoch_of(tasks_of([[1, 90, 110]]), 200)).total() == 2  # of 3: no batch has one
    assert used(epoch_of(tasks_of([[90, 110, 1, 1]]), 200)).total() == 4
    assert used(epoch_of(tasks_of([[90, 200]]), 200, world_size=2)).total() == 2


class Echo:
    """A data set whose batches are their own names."""

    def __len__(self) -> int:
        return 50

    def __getitem__(self, batch: TaskBatch) -> TaskBatch:
        return batch


def loader_of(
    rows: int = 500,
    batch_size: int = 32,
    max_tokens: int | None = 900,
    world_size: int = 1,
    num_workers: int = 0,
) -> ResumableLoader:
    data, tasks = Echo(), [many(rows), many(300)._replace(name="other")]
    sampler = (
        TokenBatchSampler(data, tasks, batch_size, max_tokens, 0, world_size)  # type: ignore[arg-type]
        if max_tokens
        else TaskBatchSampler(data, tasks, batch_size, 0, world_size)  # type: ignore[arg-type]
    )
    return ResumableLoader(data, sampler, num_workers, collate_fn=lambda batch: batch)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 7, 20])
def test_a_loader_goes_on_with_the_very_next_batch(num_workers: int, stop: int) -> None:
    first = loader_of(num_workers=num_workers)
    first.sampler.set_epoch(3)
    handed_out = list(islice(first, stop))
    second = loader_of(num_workers=num_workers)
    second.load_state_dict(first.state_dict())
    second.sampler.set_epoch(3)
    rest = list(second)
    whole = loader_of()
    whole.sampler.set_epoch(3)
    assert handed_out + rest == list(whole)
    second.sampler.set_epoch(4)
    assert len(list(second)) == len(second)


@pytest.mark.parametrize(
    "change",
    [
        {"max_tokens": 800},
        {"max_tokens": None},
        {"batch_size": 31},
        {"rows": 501},
        {"world_size": 2, "max_tokens": 450, "batch_size": 16},
    ],
)
def test_the_middle_of_an_epoch_with_other_batches_is_refused(change: dict[str, int]) -> None:
    """As large global batches on other ranks too: the ranks' shares decide what fits."""
    loader = loader_of()
    list(islice(loader, 2))
    other = loader_of(**change)
    other.load_state_dict(loader.state_dict())
    want = r"middle of an epoch with .*`batch_size=32`, `max_tokens=\d+` and 1 device\."
    with pytest.raises(UserError, match=want):
        next(iter(other))


def test_the_middle_of_an_epoch_without_a_budget_does_not_go_on_with_one() -> None:
    loader = loader_of(max_tokens=None)
    list(islice(loader, 2))
    other = loader_of()
    other.load_state_dict(loader.state_dict())
    with pytest.raises(UserError, match=r"max tokens 0, but now it is 900\. .*no `max_tokens`"):
        next(iter(other))


@settings(deadline=None, max_examples=50)
@given(TASKS, BUDGETS, RANKS, st.floats(0, 1))
def test_all_ranks_go_on_at_the_same_batch(
    tokens: list[list[int]], max_tokens: int, world_size: int, share: float
) -> None:
    tasks = tasks_of(tokens)
    whole = epoch_of(tasks, max_tokens, world_size)
    start = int(share * len(whole[0]))
    for rank in range(world_size):
        sampler = TokenBatchSampler([], tasks, 32, max_tokens, rank, world_size)  # type: ignore[arg-type]
        sampler.start = start
        assert list(sampler) == whole[rank][start:]
