"""What each step of the method brought: a table in the terminal, a file of numbers, a plot."""

from __future__ import annotations

from pathlib import Path

from llm2vec_pl.files import write_json

Rows = dict[str, dict[str, float]]  # step -> metric -> value

LOW_IS_GOOD = ("alignment", "uniformity")
ONLY_IN_THE_FILE = ("recall@10", "recall@100", "mrr@10")  # a terminal has no room for more


def report(rows: Rows, folder: Path) -> None:
    """Prints the table and writes `table.json` and, if matplotlib is installed, `table.png`."""
    print_table(rows)
    write_json(folder / "table.json", rows)
    try:
        plot(rows, folder / "table.png")
    except ImportError:
        print("No plot. For one, run `pip install matplotlib`, then the same command again.")
    else:
        print(f"Wrote {folder / 'table.png'}")


def columns(rows: Rows) -> list[str]:
    """The metrics to show, in the order in which they first appear."""
    names = dict.fromkeys(name for row in rows.values() for name in row)
    return [name for name in names if name.split("/")[-1] not in ONLY_IN_THE_FILE]


def print_table(rows: Rows, title: str = "From decoder to encoder: what each step brought") -> None:
    """Prints one row per step."""
    from rich.console import Console
    from rich.table import Table

    names = columns(rows)
    table = Table("step", title=title)
    for name in names:
        table.add_column(name, justify="right")
    for step, row in rows.items():
        table.add_row(step, *(_cell(row, name) for name in names))
    Console().print(table)


def _cell(row: dict[str, float], name: str) -> str:
    if name not in row:
        return ""
    return f"{row[name]:.1f}" if name == "minutes" else f"{row[name]:.3f}"


def plot(rows: Rows, file: Path) -> None:
    """Draws the rows as bars, with one panel per metric.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in columns(rows) if name != "minutes"]
    figure, panels = plt.subplots(
        1, len(names), figsize=(1.2 + 2.1 * len(names), 0.9 + 0.4 * len(rows)), squeeze=False,
        sharey=True, layout="constrained",
    )  # fmt: skip
    for panel, name in zip(panels[0], names, strict=True):
        bars = panel.barh(list(rows), [row.get(name, float("nan")) for row in rows.values()])
        panel.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
        panel.set_title(name + (", low is good" if name in LOW_IS_GOOD else ""), fontsize=9)
        panel.margins(x=0.35)
        panel.tick_params(axis="y", length=0)
        panel.xaxis.set_visible(False)
        panel.spines[["top", "right", "bottom"]].set_visible(False)
    panels[0][0].invert_yaxis()  # the first step on top
    figure.savefig(file, dpi=150)
    plt.close(figure)
