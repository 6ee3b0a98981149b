"""Which texts of the waiting requests go through the decoder next."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llm2vec_pl.use.server.reply import Answer
from llm2vec_pl.use.server.request import Asked


@dataclass(eq=False)
class Job:
    """A request, some of whose texts are encoded already.

    Args:
        asker: who gets the answer.
        asked: the request.
        prompt: what is written before each of its N texts.
        lengths: the number of tokens of each, with the prompt.
        deadline: when nobody waits for the answer any more, in seconds of `time.monotonic`.
    """

    asker: Any
    asked: Asked
    prompt: str
    lengths: list[int]
    deadline: float
    done: int = 0
    embeddings: list[Tensor] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether all texts are encoded."""
        return self.done == len(self.lengths)

    def add(self, embeddings: Tensor) -> None:
        """Takes the embeddings of the next texts, (n, D)."""
        self.embeddings.append(embeddings)
        self.done += len(embeddings)

    def answer(self) -> Answer:
        """The embeddings of all texts, cut to the dimensions that were asked for and normalised."""
        embeddings = torch.cat(self.embeddings)[:, : self.asked.dimensions]
        normalised = torch.nn.functional.normalize(embeddings, dim=1)
        return Answer(normalised.numpy(), sum(self.lengths))


def next_share(jobs: list[Job], budget: int) -> list[tuple[Job, list[int]]]:
    """The texts to encode together: one of each job in turn, as long as their tokens fit.

    So a request with a single text need not wait for all of one with thousands.

    Args:
        jobs: the requests, none complete.
        budget: most tokens; a text that is longer goes alone.

    Returns:
        Jobs, each with the places of its texts, in their order.
    """
    places: list[list[int]] = [[] for _ in jobs]
    tokens = 0
    for turn in itertools.count():
        open_jobs = [i for i, job in enumerate(jobs) if job.done + turn < len(job.lengths)]
        for i in open_jobs:
            place = jobs[i].done + turn
            tokens += jobs[i].lengths[place]
            if tokens > budget and any(places):
                return [(job, own) for job, own in zip(jobs, places, strict=True) if own]
            places[i].append(place)
        if not open_jobs:
            break
    return [(job, own) for job, own in zip(jobs, places, strict=True) if own]


def least_tokens(jobs: list[Job]) -> int:
    """The tokens of one text of each job: of the smallest share in which nobody is left out."""
    return sum(job.lengths[job.done] for job in jobs)
