"""Probes several models on several tasks; what is measured already is not measured again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

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
    chosen = {model: layers_of(frozen, layers) for model, frozen in opened.items()}
    found: list[Result] = []
    for task in tasks:
        data: Any = None
        for model, frozen in opened.items():
            settings = {"version": VERSION, "model": frozen.key, **task.key, **asdict(training)}
            of = fingerprint({**settings, "max_length": frozen.tokenize.max_length})
            asked = [(layer, seed) for layer in chosen[model] for seed in range(seeds)]
            known = {
                (layer, seed): results.find(model.label, task.name, layer, seed, of)
                for layer, seed in asked
            }
            missing = [pair for pair, result in known.items() if result is None]
            if missing:
                data = data or task.read(frozen)
                measured = _measure(model.label, task, frozen, data, missing, training, of)
                for result in measured:
                    results.add(result)
                    known[result.layer, result.seed] = result
            found += [result for result in known.values() if result is not None]
    return summaries(found)


def _measure(
    label: str,
    task: ProbeTask,
    frozen: FrozenModel,
    data: Any,
    missing: Sequence[tuple[int, int]],
    training: Training,
    of: str,
) -> Iterator[Result]:
    layers = sorted({layer for layer, _ in missing})
    splits = ProbedSplits(data, frozen, layers, f"{label} on {task.name}")
    for layer, seed in missing:
        started = time.monotonic()
        shifts = probe(splits, layer, seed, training)
        names = (label, task.name, task.score, layer, frozen.layers, seed, of)
        result = Result(*names, shifts)
        split = "test" if "test" in shifts["0"] else "validation"
        scores = ", ".join(
            f"shift {shift}: {100 * scores[split][task.score]:.2f}"
            for shift, scores in shifts.items()
        )
        seconds = time.monotonic() - started
        where = f"{label} on {task.name}, layer {layer}, seed {seed}"
        print(f"{where}: {task.score} {scores} ({seconds:.0f} s)", flush=True)
        yield result


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
