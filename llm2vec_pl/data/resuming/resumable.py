"""A loader that can continue in the middle of an epoch, and what it needs from its sampler."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from llm2vec_pl.data.resuming.fit_progress import FitProgress
from llm2vec_pl.errors import UserError

State = dict[str, Any]

# At a checkpoint, the trainer may hold the batch that it works on, and Lightning one more.
_PLACES_KEPT = 3


class PassProgress(NamedTuple):
    """How far a pass has come."""

    batches: int  # of the epoch, including those before a resume
    position: Any


class ResumableBatchSampler(DistributedSampler[Any]):
    """Names the batches of one rank, as a function of seed, epoch, rank and number of ranks.

    It is a DistributedSampler even with one process: Lightning keeps it and sets its epoch.
    """

    start = 0  # the position at which the next pass begins; then 0 again

    def batch_ends(self, start: int = 0) -> Sequence[int]:
        """The positions after each batch of a pass that begins at position `start`."""
        raise NotImplementedError(f"{type(self).__name__} does not define batch_ends().")

    def fixed_in_epoch(self) -> dict[str, int]:
        """What must not change in the middle of an epoch."""
        raise NotImplementedError(f"{type(self).__name__} does not define fixed_in_epoch().")

    def __len__(self) -> int:
        """The number of batches per epoch, the same in every epoch and on every rank."""
        return len(self.batch_ends())


class ResumableLoader(DataLoader[Any]):
    """Loads batches, and can continue in the middle of an epoch: Lightning keeps its state.

    The state is that of the last batch that was trained on, whatever was loaded ahead.

    Args:
        dataset: reads the batches that the sampler names.
        sampler: names the batches of this rank.
        num_workers: processes that load batches.
        collate_fn: makes tensors from what the dataset gives.
        progress: progress of the training that uses the batches; without it, a batch that was
            handed out counts as trained on.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        sampler: ResumableBatchSampler | None = None,
        num_workers: int = 0,
        collate_fn: Any = None,
        progress: FitProgress | None = None,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=None,  # the sampler names whole batches
            sampler=sampler,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # its own: starting an epoch must not change the dropout
        )
        self.progress = progress
        self._places = deque([PassProgress(0, self.first_position())], _PLACES_KEPT)
        self._ended = False
        self.pending: State | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # Begins at the first `next`, when Lightning has set the epoch.
        place = self._begin()
        self._places.clear()
        self._places.append(place)
        self._ended = False
        number = place.batches
        for batch, position in self.batches_from(place.position):
            number += 1
            self._places.append(PassProgress(number, position))
            yield batch
        self._ended = True

    @property
    def epoch(self) -> int:
        """The epoch of the pass, or of the next one."""
        sampler: Any = self.sampler
        return int(sampler.epoch)

    def first_position(self) -> Any:
        """The position of an epoch's start."""
        return 0

    def batches_from(self, position: Any) -> Iterator[tuple[Any, Any]]:
        """The batches from a position on, each with the position after it."""
        sampler: Any = self.sampler
        sampler.start = position
        return zip(super().__iter__(), sampler.batch_ends(position), strict=True)

    def batches_before(self, state: State) -> int:
        """Batches of the epoch before a state, which may be from an epoch of different batches."""
        sampler: Any = self.sampler
        return len(sampler) - len(sampler.batch_ends(state["position"]))

    def position_in(self, state: State) -> Any:
        """The position of this rank in a state of all ranks."""
        return state["position"]

    def fixed_in_epoch(self) -> dict[str, int]:
        """What must not change in the middle of an epoch."""
        sampler: Any = self.sampler
        return dict(sampler.fixed_in_epoch())

    def resume_problem(self, state: State) -> str | None:
        """Why an epoch cannot continue from a state; None if it can."""
        for name, now in self.fixed_in_epoch().items():
            before = state.get(name, 0)
            if before != now:
                return (
                    "The checkpoint is from the middle of an epoch with "
                    f"{name.replace('_', ' ')} {before:,}, but now it is {now:,}. {_same(state)}"
                )
        return None

    def state_dict(self) -> State:
        """The epoch and the position in it, and what they depend on."""
        if self.pending is not None:  # nothing was loaded since
            return self.pending
        place = self._trained()
        return {
            "epoch": self.epoch,
            "batches": place.batches,
            "position": place.position,
            "ended": self._ended and place == self._places[-1],
            **self.fixed_in_epoch(),
        }

    def load_state_dict(self, state: State) -> None:
        """Lets the next pass continue from a state, if that is from the same epoch."""
        self.pending = state
        # Lightning fetches a batch from a loader without a length before it sets the epoch.
        sampler: Any = self.sampler
        sampler.set_epoch(state["epoch"] + state["ended"])
        if self.progress and self.progress.epoch == state["epoch"] + 1:
            self.progress.complete_epoch()
        elif self.progress and (state["ended"] or self.resume_problem(state) is None):
            # Lightning would count on from the last epoch if it does not know an epoch's length.
            batches = 0 if state["ended"] else self.batches_before(state)
            self.progress.recount(state, batches)

    def _trained(self) -> PassProgress:
        trained = self.progress.batches() if self.progress else None
        for place in self._places:
            if place.batches == trained:
                return place
        # Lightning still counts the last epoch, but a batch of the next was fetched.
        fetched_early = trained is not None and trained > self._places[-1].batches
        return self._places[0 if fetched_early else -1]

    def _begin(self) -> PassProgress:
        state, self.pending = self.pending, None
        if not state or state["ended"] or state["epoch"] != self.epoch or not state["batches"]:
            return PassProgress(0, self.first_position())
        if problem := self.resume_problem(state):
            raise UserError(problem)
        return PassProgress(self.batches_before(state), self.position_in(state))


def _same(state: State) -> str:
    """What to set to get the batches of a state again."""
    size, tokens = state.get("global_batch_size"), state.get("max_tokens")
    if not size:
        return "Use the same data."
    if not tokens:
        return (
            "Use the same data, no `max_tokens`, and a `batch_size` whose product with the number "
            f"of devices is {size:,}."
        )
    devices = state["devices"]
    return (
        f"Use the same data and tokenizer, `batch_size={size // devices}`, "
        f"`max_tokens={tokens}` and {devices:,} device{'s' * (devices > 1)}."
    )
