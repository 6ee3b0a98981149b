"""The results as tables: in the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llm2vec_pl.evaluation.word_probe.plots import plot_encoders, plot_layers
from llm2vec_pl.evaluation.word_probe.results import Summary

TITLE = "Linear probe"
SHIFT_NOTE = (
    "Shift 0 takes a word's states at its own tokens, shift 1 one position earlier; * marks the "
    "one that is better on the validation split."
)
NAMES = {"accuracy": "accuracy", "f1": "F1"}


def report(found: Sequence[Summary], out: Path) -> None:
    """Prints a table for each task, and writes `table.md`, `words.png` and `layers.png`.

    Args:
        found: what was measured.
        out: the folder for the files.
    """
    from rich.console import Console
    from rich.table import Table

    console, notes = Console(), notes_on(found)
    lines: list[str] = []
    for task in dict.fromkeys(each.task for each in found):
        headings, rows = table([each for each in found if each.task == task])
        shown = Table(title=f"{TITLE}: {task}")
        for heading in headings:
            left = heading == headings[0]
            shown.add_column(heading, justify="left" if left else "right", no_wrap=True)
        for row in rows:
            shown.add_row(*row)
        console.print(shown)
        flat = [heading.replace("\n", " ") for heading in headings]
        lines += [f"{task}:", "", f"| {' | '.join(flat)} |", "| --- |" + " ---: |" * len(flat[1:])]
        lines += [*(f"| {' | '.join(row)} |" for row in rows), ""]
    for note in notes:
        console.print(note, markup=False, highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    files = [out / "table.md"]
    files[0].write_text("\n".join([*lines, *notes, ""]), encoding="utf-8")
    try:
        files += plot_encoders(found, out / "words.png") + plot_layers(found, out / "layers.png")
    except ImportError:
        print("No plot. For one, run `pip install matplotlib`, then the same command again.")
    print(f"Wrote {', '.join(map(str, files))}")


def table(found: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for each encoder and layer of a task: scores in percent."""
    shifts = sorted({shift for each in found for shift in each.shifts})
    by_layer = len({(each.encoder, each.layer) for each in found}) > len(
        {each.encoder for each in found}
    )
    score = NAMES[found[0].score]
    headings = ["encoder", *(["layer"] if by_layer else [])]
    headings += [f"{score},\nshift {shift}" for shift in shifts] + ["micro\nprecision"]
    rows = []
    for each in found:
        cells = [each.encoder, *([str(each.layer)] if by_layer else [])]
        for shift in shifts:
            marked = "*" if shift == each.shift and len(each.shifts) > 1 else ""
            cells.append(f"{each.value(shift=shift)}{marked}" if shift in each.shifts else "")
        rows.append([*cells, str(each.value("micro_precision"))])
    return headings, rows


def notes_on(found: Sequence[Summary]) -> list[str]:
    """Lines for below the table."""
    first = found[0]
    seeds = first.value().seeds
    spread = f"mean ± sample standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    notes = [f"In percent, on the {first.split} split; {spread}."]
    if any(len(each.shifts) > 1 for each in found):
        notes.append(SHIFT_NOTE)
    notes.append(
        "Micro precision, of the chosen shift, is what llm2vec 0.2.3 calls precision: the share of "
        "words with the right tag."
    )
    return notes
