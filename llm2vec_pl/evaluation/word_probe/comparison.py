"""Probes several models on several tasks; what is measured already is not measured again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from llm2vec_pl.data import WordTask
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.word_probe.frozen import FrozenModel, open_frozen
from llm2vec_pl.evaluation.word_probe.linear import Training, probe
from llm2vec_pl.evaluation.word_probe.results import Result, Results, Summary, summaries
from llm2vec_pl.evaluation.word_probe.task import ProbedSplits, ProbeTask
from llm2vec_pl.files import fingerprint

VERSION = 1  # of a probe: a result of another one is measured again


@dataclass(frozen=True)
class Probed:
    """A model of the comparison.

    Args:
        label: its name in the table.
        name: any `--encoder.model_name`, or an encoder-only model.
        bidirectional: opens a decoder with or without step 1; None as it was saved.
    """

    label: str
    name: str
    bidirectional: bool | None = None


def compare(
    models: Sequence[Probed],
    tasks: Sequence[ProbeTask],
    results: Results,
    layers: Sequence[int | str] = ("last",),
    seeds: int = 3,
    training: Training | None = None,
) -> list[Summary]:
    """Probes each model on each task.

    Args:
        models: in the order of the table.
        tasks: in the order of the table.
        results: what is known already; each new result is added.
        layers: numbers from 0 (the embeddings), `last`, or `all`.
        seeds: how many probes to train for each model, task and layer.
        training: of each probe; the paper's by default.

    Returns:
        A summary for each model, task and layer.

    Raises:
        UserError: if a model, a task or a layer does not exist, before anything is measured.
    """
    training = training or Training()
    _require_different("--encoders", [model.label for model in models])
    _require_different("--data", [task.name for task in tasks])
    opened = {model: open_frozen(model.name, model.bidirectional) for model in models}
    asked = [
        _Asked(task, model.label, frozen, layers_of(frozen, layers), seeds, training)
        for task in tasks
        for model, frozen in opened.items()
    ]
    unread = {each.task: each.frozen for each in asked if each.missing(results)}
    data = {task: task.read(frozen) for task, frozen in unread.items()}
    for each in asked:
        if missing := each.missing(results):
            for measured in _measure(each, data[each.task], missing):
                results.add(measured)
    return summaries(
        result
        for each in asked
        for pair in each.pairs
        if (result := each.known(results, pair)) is not None
    )


@dataclass(frozen=True)
class _Asked:
    """The probes of a model on a task: one for each layer and seed."""

    task: ProbeTask
    label: str
    frozen: FrozenModel
    layers: Sequence[int]
    seeds: int
    training: Training

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return [(layer, seed) for layer in self.layers for seed in range(self.seeds)]

    @cached_property
    def of(self) -> str:
        """What a result depends on beside layer and seed."""
        length = self.frozen.tokenize.max_length
        model = {"version": VERSION, "model": self.frozen.key, "max_length": length}
        return fingerprint({**model, **self.task.key, **asdict(self.training)})

    def known(self, results: Results, pair: tuple[int, int]) -> Result | None:
        return results.find(self.label, self.task.name, *pair, self.of)

    def missing(self, results: Results) -> list[tuple[int, int]]:
        return [pair for pair in self.pairs if self.known(results, pair) is None]


def _measure(asked: _Asked, data: WordTask, missing: Sequence[tuple[int, int]]) -> Iterator[Result]:
    task, label, frozen = asked.task, asked.label, asked.frozen
    layers = sorted({layer for layer, _ in missing})
    splits = ProbedSplits(data, frozen, layers, f"{label} on {task.name}")
    for layer, seed in missing:
        started = time.monotonic()
        shifts = probe(splits, layer, seed, asked.training)
        names = (label, task.name, task.score, layer, frozen.layers, seed, asked.of)
        split = "test" if "test" in shifts["0"] else "validation"
        scores = ", ".join(
            f"shift {shift}: {100 * scores[split][task.score]:.2f}"
            for shift, scores in shifts.items()
        )
        seconds = time.monotonic() - started
        where = f"{label} on {task.name}, layer {layer}, seed {seed}"
        print(f"{where}: {task.score} {scores} ({seconds:.0f} s)", flush=True)
        yield Result(*names, shifts)


def layers_of(model: FrozenModel, layers: Sequence[int | str]) -> list[int]:
    """The numbers of the layers that are asked for.

    Raises:
        UserError: if there is no such layer.
    """
    chosen: list[int] = []
    for layer in layers:
        if layer == "all":
            chosen += range(model.layers + 1)
        elif layer == "last":
            chosen.append(model.layers)
        elif str(layer).isdigit() and int(layer) <= model.layers:
            chosen.append(int(layer))
        else:
            raise UserError(
                f"--layer expects last, all, or numbers from 0 (the embeddings) to {model.layers} "
                f"(the last layer of {model.name}), but got {layer!r}."
            )
    return list(dict.fromkeys(chosen))


def _require_different(flag: str, names: Sequence[str]) -> None:
    if not names:
        raise UserError(f"{flag} names nothing to probe.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(
            f"{flag}: two are called {twice!r}, and the table could not tell them apart. Give one "
            "of them another name."
        )
