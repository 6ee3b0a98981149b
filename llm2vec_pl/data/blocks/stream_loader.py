"""Loads a stream's batches, and keeps track of how far each reader has come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch.distributed
from lightning.pytorch.utilities import rank_zero_info
from typing_extensions import override

from llm2vec_pl.data.blocks.placed_blocks import Cursor
from llm2vec_pl.data.blocks.streaming import StreamedBlocks, Turn
from llm2vec_pl.data.resuming import FitProgress, ResumableLoader, State
from llm2vec_pl.distributed import Repeated, row_counts
from llm2vec_pl.errors import UserError


class StreamLoader(ResumableLoader):
    """Loads batches from a stream, and can continue in the middle of an epoch.

    A position is the cursor after the last batch of each reader, and whose turn it is. Each process
    knows only its own readers: `state_dict` gathers them all, so all ranks must call it, as
    Lightning does. All ranks give the same number of batches.

    Args:
        dataset: the stream.
        rank: rank of this process.
        world_size: number of ranks.
        num_workers: processes that read, tokenise and pack for each rank.
        progress: progress of the training that uses the batches.
    """

    def __init__(
        self,
        dataset: StreamedBlocks,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        progress: FitProgress | None = None,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.stream = dataset
        self.processes = world_size * max(1, num_workers)
        super().__init__(dataset, None, num_workers, _as_it_is, progress)
        # Lightning tells the epoch only to samplers.
        self.sampler.set_epoch = dataset.set_epoch  # type: ignore[attr-defined]

    @property
    @override
    def epoch(self) -> int:
        return self.stream.epoch

    @override
    def first_position(self) -> dict[str, Any]:
        return self._position(dict.fromkeys(range(self.processes), Cursor()), self.rank)

    @override
    def batches_from(self, position: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
        cursors, readers = position["cursors"], position["readers"]
        self.stream.begin({r: Cursor(*cursor) for r, cursor in cursors.items()}, readers)
        turns = (turn for turn in super(ResumableLoader, self).__iter__() if turn.batch is not None)
        if self.stream.split == "train":
            is_whole = all(Cursor(*cursor) == Cursor() for cursor in cursors.values())
            in_step = _until_one_ends(turns, is_whole)
        else:
            in_step = self._until_all_end(turns)
        for reader, cursor, batch in in_step:
            cursors = {**cursors, reader: tuple(cursor)}
            following = (reader + self.world_size) % readers
            yield batch, {"cursors": cursors, "turns": [following], "readers": readers}

    def _until_all_end(self, turns: Iterator[Turn]) -> Iterator[Turn]:
        """The turns of this rank, then repeated batches until all ranks have come to their end."""
        batch = self.stream.collate([np.zeros(2, np.int64)])  # a rank may have none at all
        while any(_ranks_with(turn := next(turns, None))):
            batch = turn.batch if turn else Repeated(batch)
            yield turn._replace(batch=batch) if turn else Turn(self.rank, Cursor(), batch)

    @override
    def batches_before(self, state: State) -> int:
        return int(state["batches"])

    @override
    def fixed_in_epoch(self) -> dict[str, int]:
        return {}

    @override
    def state_dict(self) -> State:
        state = super().state_dict()
        if state is self.pending or self.world_size == 1:
            return state
        states: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(states, state)
        positions = [one["position"] for one in states]
        cursors = {r: cursor for one in positions for r, cursor in one["cursors"].items()}
        turns = [turn for one in positions for turn in one["turns"]]
        return {
            **state,
            "ended": all(one["ended"] for one in states),
            "position": {**state["position"], "cursors": cursors, "turns": turns},
        }

    @override
    def position_in(self, state: State) -> dict[str, Any]:
        position = state["position"]
        turns = position["turns"]
        if len(turns) == self.world_size:
            turn = turns[self.rank]
        else:
            turn = (turns[0] + self.rank) % position["readers"]
        return self._position(position["cursors"], turn)

    @override
    def resume_problem(self, state: State) -> str | None:
        readers = state["position"]["readers"]
        if readers % self.processes == 0:
            return None
        return (
            f"The checkpoint is from the middle of an epoch that {readers:,} readers stream "
            f"together, one for each worker of each device, but now there are {self.processes:,} "
            f"processes, which cannot share them equally. Set `num_workers` so that its product "
            f"with the number of devices is {readers:,}, or divides it."
        )

    def _position(self, cursors: dict[int, Any], turn: int) -> dict[str, Any]:
        """The position of a rank: its readers in order, beginning with the one whose turn it is."""
        readers = len(cursors)
        mine = [(turn + i) % readers for i in range(0, readers, self.world_size)]
        return {
            "cursors": {reader: tuple(cursors[reader]) for reader in mine},
            "turns": [turn],
            "readers": readers,
        }


def _until_one_ends(turns: Iterator[Turn], is_whole: bool) -> Iterator[Turn]:
    """The turns of this rank, until one rank has come to its end: each step needs all ranks.

    Args:
        turns: the turns of this rank.
        is_whole: whether this is a whole epoch from its beginning: without any batch, it would be
            followed by another empty one, for ever.

    Raises:
        UserError: if a whole epoch does not have a batch for each rank.
    """
    while any(having := _ranks_with(turn := next(turns, None))) or is_whole:
        if not all(having):
            if is_whole:
                raise _too_little(having)
            rank_zero_info(
                f"The stream's epoch ends: rank {having.index(False)} has come to the end of its "
                "share. The rest of the other ranks' shares is left out."
            )
            return
        assert turn is not None
        is_whole = False
        yield turn


def _too_little(having: list[bool]) -> UserError:
    if not any(having):
        return UserError("`path`: the stream holds no text to train on. Give another source.")
    return UserError(
        f"`path`: the stream is too short for {len(having)} devices: it has no text for rank "
        f"{having.index(False)}. Give more text, train on fewer devices (`Trainer(devices=N)`), or "
        "set `streaming=False`."
    )


def _ranks_with(turn: Turn | None) -> list[bool]:
    """Whether each rank has a turn; the hosts exchange this, so all ranks must ask."""
    return [bool(count) for (count,) in row_counts([turn] if turn else [])]


def _as_it_is(turn: Any) -> Any:
    return turn
