"""What a tagger reaches: measured on validation and test data, over several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from llm2vec_pl.data import WordTask
from llm2vec_pl.errors import user_errors
from llm2vec_pl.files import write_json
from llm2vec_pl.objectives import TokenClassification, WordScores
from llm2vec_pl.training.failures import no_process_left, out_of_memory

TAGGER = "tagger"
RESULTS = "results.json"

Result = dict[str, Any]


def measure_tagger(
    trainer: Trainer, tagger: TokenClassification, data: LightningDataModule
) -> Result:
    """Measures a trained tagger on the validation split, which chooses the shift, and on test.

    It is written to `tagger/` in the run's folder, and the result to `results.json`.

    Args:
        trainer: the trainer, after `fit`.
        tagger: with its best weights.
        data: the data that it was trained on.

    Returns:
        `run`, its folder; `shift`, the chosen one; `validation` and `test`, its scores, the latter
        only if there is such a split; and `shifts`, the same for each shift that was trained.
    """
    with user_errors(), no_process_left(trainer), out_of_memory():
        found = {"validation": trainer.validate(tagger, data, verbose=False)}
        if data.test_dataloader():
            found["test"] = trainer.test(tagger, data, verbose=False)
    scores = {split: _without_split(metrics[0]) for split, metrics in found.items() if metrics}
    result: Result = {"run": trainer.log_dir, "shift": tagger.shift}
    result |= {split: _of_shift(values, None) for split, values in scores.items()}
    result["shifts"] = {
        str(shift): {split: _of_shift(values, shift) for split, values in scores.items()}
        for shift in tagger.shifts
    }
    folder = trainer.log_dir
    if folder is not None and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        write_json(Path(folder) / RESULTS, result)
        path = tagger.save(Path(folder) / TAGGER)
        opened = f"TokenClassification.from_pretrained({str(path)!r})"
        rank_zero_info(f"Wrote {path}: open it with {opened}.")
    return result


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """The mean and the sample standard deviation of each score over runs.

    Returns:
        `chosen` and, if both were trained, `shift 0` and `shift 1` -> split -> score -> `mean` and
        `deviation` (0 for a single run).
    """
    shifts = list(results[0]["shifts"])
    rows: dict[str, list[Result]] = {}
    if len(shifts) > 1:
        rows = {f"shift {shift}": [each["shifts"][shift] for each in results] for shift in shifts}
    rows["chosen"] = list(results)
    return {name: _over_runs(runs) for name, runs in rows.items()}


def report_seeds(results: Sequence[Result], trainer: Trainer, folder: Path) -> None:
    """Prints the mean and the deviation of each score, in percent, and writes `results.json`.

    Args:
        results: of runs with different seeds.
        trainer: of the last of them.
        folder: where to write the file; a quick run writes none.
    """
    if not trainer.is_global_zero:
        return
    found = summary(results)
    _print(found, results, trainer)
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]
        write_json(folder / RESULTS, {"mean": found, "runs": results})
        print(f"Wrote {folder / RESULTS}")


def _print(found: dict[str, Any], results: Sequence[Result], trainer: Trainer) -> None:
    from rich.console import Console
    from rich.table import Table

    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    tagger: Any = trainer.lightning_module
    name = type(data).__name__
    if isinstance(data, WordTask):
        name = f"{data.task} on {Path(data.path).name}"
    seeds = f"{len(results)} seed{'s' * (len(results) > 1)}"
    table = Table(title=f"{name}, {seeds}")
    table.add_column("", no_wrap=True)
    for name in found:
        table.add_column(name, justify="right", no_wrap=True)
    for split, name in _shown(found["chosen"], WordScores.score_of(tagger.has_spans)):
        cells = (_cell(values[split][name], len(results)) for values in found.values())
        table.add_row(f"{split} {name.replace('_', ' ')}", *cells)
    console = Console()
    console.print(table)
    if len(found) > 1:
        shifts = ", ".join(str(each["shift"]) for each in results)
        console.print(f"Chosen on the validation split: shift {shifts}.", highlight=False)


def _shown(values: dict[str, Any], score: str) -> list[tuple[str, str]]:
    """The split and the name of each score to show, in reading order."""
    last = "test" if "test" in values else "validation"
    names = [score, "precision", "recall", "micro_precision"]
    shown = [(last, name) for name in names if name in values[last]]
    first = [("validation", score)] if last == "test" and "validation" in values else []
    return [*first, *shown]


def _cell(value: dict[str, float], runs: int) -> str:
    deviation = f" ± {100 * value['deviation']:.2f}" if runs > 1 else ""
    return f"{100 * value['mean']:.2f}{deviation}"


def _over_runs(runs: Sequence[Result]) -> dict[str, Any]:
    splits = [split for split in ("validation", "test") if split in runs[0]]
    return {
        split: {
            name: {
                "mean": mean(run[split][name] for run in runs),
                "deviation": stdev(run[split][name] for run in runs) if len(runs) > 1 else 0.0,
            }
            for name in runs[0][split]
        }
        for split in splits
    }


def _without_split(metrics: Any) -> dict[str, float]:
    return {name.partition("/")[2]: float(value) for name, value in metrics.items()}


def _of_shift(metrics: dict[str, float], shift: int | None) -> dict[str, float]:
    """The scores of a shift; of the chosen one for None. A single shift has no name of its own."""
    prefix = f"shift_{shift}/"
    own = {n.removeprefix(prefix): v for n, v in metrics.items() if n.startswith(prefix)}
    return own or {n: v for n, v in metrics.items() if "/" not in n}
