"""What each step of the method brought: a table in the terminal, a file of numbers, a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm2vec_pl.files import write_json

Rows = dict[str, dict[str, float]]  # step -> metric -> value

TITLE = "From decoder to encoder: what each step brought"
LOW_IS_GOOD = ("alignment", "uniformity")
ONLY_IN_THE_FILE = ("recall@10", "recall@100", "mrr@10")  # a terminal has no room for more
PANELS = 5  # side by side in the plot


def report(rows: Rows, folder: Path, notes: Sequence[str] = ()) -> None:
    """Prints the table and writes `table.json` and, if matplotlib is installed, `table.png`.

    Args:
        rows: the metrics of each step; `TASK/METRIC` is the metric of a task with several.
        folder: the folder for the files.
        notes: lines to print below the table and the plot, such as what was measured in part.
    """
    print_table(rows, notes=notes)
    write_json(folder / "table.json", rows)
    try:
        plot(rows, folder / "table.png", notes)
    except ImportError:
        print("No plot. For one, run `pip install matplotlib`, then the same command again.")
    else:
        print(f"Wrote {folder / 'table.png'}")


def columns(rows: Rows) -> list[str]:
    """The metrics to show, in the order in which they first appear."""
    names = dict.fromkeys(name for row in rows.values() for name in row)
    hidden = {True: (*ONLY_IN_THE_FILE, "recall@1"), False: ONLY_IN_THE_FILE}  # of many tasks, one
    return [name for name in names if name.split("/")[-1] not in hidden["/" in name]]


def print_table(rows: Rows, title: str = TITLE, notes: Sequence[str] = ()) -> None:
    """Prints one row per step; a table that is too wide for the terminal, as several.

    Args:
        rows: the metrics of each step.
        title: the line above the table.
        notes: the lines below it.
    """
    from rich.console import Console

    console = Console()

    def width(names: Sequence[str]) -> int:
        wide = console.options.update(max_width=1000)
        return int(console.measure(_table(rows, names), options=wide).maximum)

    for names in _pieces(columns(rows), width, console.width):
        console.print(_table(rows, names, title))
        title = ""
    for note in notes:
        console.print(note, markup=False, highlight=False)


def _pieces(names: list[str], width: Callable[[Sequence[str]], int], room: int) -> list[list[str]]:
    """The columns in as few tables as have room for them, in equal numbers."""
    for count in range(1, len(names)):
        size = -(-len(names) // count)
        pieces = [names[start : start + size] for start in range(0, len(names), size)]
        if all(width(piece) <= room for piece in pieces):
            return pieces
    return [[name] for name in names] or [[]]


def _table(rows: Rows, names: Sequence[str], title: str = "") -> Any:
    from rich.table import Table

    table = Table("step", title=title or None)
    for name in names:
        table.add_column(_heading(name), justify="right", no_wrap=True)
    for step, row in rows.items():
        table.add_row(step, *(_cell(row, name) for name in names))
    return table


def _heading(name: str) -> str:
    """A column's name, in lines."""
    return name.replace("/", "\n")


def _cell(row: dict[str, float], name: str) -> str:
    if name not in row:
        return ""
    return f"{row[name]:.1f}" if name == "minutes" else f"{row[name]:.3f}"


def plot(rows: Rows, file: Path, notes: Sequence[str] = ()) -> None:
    """Draws the rows as bars, with one panel per metric.

    Args:
        rows: the metrics of each step.
        file: the picture to write.
        notes: the lines below the panels.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in columns(rows) if name != "minutes"]
    across = min(PANELS, len(names))
    down = -(-len(names) // across)
    size = 1.2 + 2.1 * across, down * (0.9 + 0.4 * len(rows)) + 0.2 * len(notes)
    figure, panels = plt.subplots(
        down, across, figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    for panel, name in zip(panels.flat, names, strict=False):
        bars = panel.barh(list(rows), [row.get(name, float("nan")) for row in rows.values()])
        panel.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
        low = ", low is good" if name in LOW_IS_GOOD else ""
        panel.set_title(name.replace("/", " ") + low, fontsize=9)
        panel.margins(x=0.35)
        panel.tick_params(axis="y", length=0)
        panel.xaxis.set_visible(False)
        panel.spines[["top", "right", "bottom"]].set_visible(False)
    for panel in panels.flat[len(names) :]:
        panel.remove()
    panels[0][0].invert_yaxis()  # the first step on top
    if notes:
        figure.supxlabel("\n".join(notes), fontsize=8, ha="left", x=0.01)
    figure.savefig(file, dpi=150)
    plt.close(figure)
