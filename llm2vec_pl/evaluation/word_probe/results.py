"""What was measured, in a file, and its mean and deviation over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from llm2vec_pl.errors import UserError
from llm2vec_pl.files import read_json, unfinished, write_json

Scores = dict[str, float]


@dataclass(frozen=True)
class Result:
    """The scores of one probe.

    Args:
        encoder: the model's name in the table.
        task: the task's name.
        score: the score that decides, `f1` or `accuracy`.
        layer: whose states were read.
        last: the number of the last layer.
        seed: of the probe.
        of: a fingerprint of what was measured: model, data, settings.
        shifts: shift -> split -> score -> value.
    """

    encoder: str
    task: str
    score: str
    layer: int
    last: int
    seed: int
    of: str
    shifts: dict[str, dict[str, Scores]] = field(hash=False)


@dataclass(frozen=True)
class Value:
    """The mean of a score over seeds, and its sample standard deviation; 0 for a single seed."""

    mean: float
    deviation: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Value:
        """Of one value for each seed."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else 0.0, len(values))

    def __str__(self) -> str:
        """In percent."""
        spread = f" ± {100 * self.deviation:.2f}" if self.seeds > 1 else ""
        return f"{100 * self.mean:.2f}{spread}"


@dataclass(frozen=True)
class Summary:
    """All seeds of an encoder on a task, with the states of one layer.

    Args:
        encoder: the model's name in the table.
        task: the task's name.
        score: the score that decides.
        layer: whose states were read.
        last: the number of the last layer.
        shift: the one with the higher score on the validation split.
        shifts: shift -> split -> score -> mean and deviation.
    """

    encoder: str
    task: str
    score: str
    layer: int
    last: int
    shift: str
    shifts: dict[str, dict[str, dict[str, Value]]]

    @property
    def split(self) -> str:
        """The split to report: `test`, or `validation` if there is no test split."""
        return "test" if "test" in self.shifts[self.shift] else "validation"

    def value(self, score: str | None = None, shift: str | None = None) -> Value:
        """A score, by default the one that decides, of a shift, by default the chosen one."""
        return self.shifts[shift or self.shift][self.split][score or self.score]


class Results:
    """The results in a file, which is written after each.

    Args:
        file: the file; it need not exist.

    Raises:
        UserError: if it is a file of another kind.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        content = read_json(file)
        try:
            found = [Result(**each) for each in content["results"]] if content else []
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{file} holds something else than the results of this comparison, and would be "
                "replaced. Choose another folder."
            ) from error
        self._known = {_key(result): result for result in found}

    def find(self, encoder: str, task: str, layer: int, seed: int, of: str) -> Result | None:
        """The result of a probe, if it was measured on just this."""
        found = self._known.get((encoder, task, layer, seed))
        return found if found is not None and found.of == of else None

    def add(self, result: Result) -> None:
        """Adds a result, in the place of an outdated one."""
        self._known[_key(result)] = result
        content: dict[str, Any] = {"results": [asdict(each) for each in self._known.values()]}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(self.file) as new:
            write_json(new, content)


def summaries(results: Iterable[Result]) -> list[Summary]:
    """A summary for each encoder, task and layer, in the order of the results."""
    groups: dict[tuple[str, str, int], list[Result]] = {}
    for result in results:
        groups.setdefault((result.encoder, result.task, result.layer), []).append(result)
    return [_summary(group) for group in groups.values()]


def _summary(group: Sequence[Result]) -> Summary:
    first = group[0]
    shifts = {
        shift: {
            split: {
                score: Value.of([each.shifts[shift][split][score] for each in group])
                for score in scores
            }
            for split, scores in splits.items()
        }
        for shift, splits in first.shifts.items()
    }
    best = max(shifts, key=lambda shift: shifts[shift]["validation"][first.score].mean)
    names = (first.encoder, first.task, first.score, first.layer, first.last)
    return Summary(*names, best, shifts)


def _key(result: Result) -> tuple[str, str, int, int]:
    return result.encoder, result.task, result.layer, result.seed
