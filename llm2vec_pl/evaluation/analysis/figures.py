"""How the figures look: the same colour for an encoder in all, also for the colour-blind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2vec_pl.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito 2008: told apart with any kind of colour vision. Markers tell them apart in print.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HEAT = "cividis"


def require_matplotlib() -> None:
    """Raises an error that says how to install matplotlib, if it is not."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(
            "The figures need matplotlib, which is not installed: `pip install matplotlib`. "
            "The numbers do not need it."
        ) from error


def panels(
    down: int, across: int, width: float, height: float, **options: Any
) -> tuple[Figure, Any]:
    """A figure that belongs to no window, and its axes as an array without axes of length 1.

    Args:
        down: number of rows.
        across: number of columns.
        width: of a panel, in inches.
        height: of a panel, in inches.
        options: of `Figure.subplots`.

    Raises:
        UserError: if matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(across * width, down * height), layout="constrained")
    return figure, figure.subplots(down, across, **options)


def lines_by_layer(axis: Any, rows: Mapping[str, Sequence[float]], **options: Any) -> None:
    """A line for each row, with a number for each layer."""
    for i, (name, values) in enumerate(rows.items()):
        look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        axis.plot(
            range(len(values)), values, label=name, ms=4, lw=1.4, alpha=0.9, **look, **options
        )


def legend_below(figure: Figure, axis: Any, title: str | None = None) -> None:
    """A legend of a panel's lines below all panels, where it hides nothing."""
    lines, labels = axis.get_legend_handles_labels()
    figure.legend(
        lines,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 6),
        title=title,
        fontsize=9,
        frameon=False,
    )


def layer_axis(axis: Any, first: int = 0) -> None:
    """Whole numbers of layers below a panel; 0 is the token embeddings."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x + first:.0f}"))
    axis.set_xlabel("layer" if first else "layer (0: token embeddings)")
    axis.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, file: Path) -> None:
    """Writes a PNG of 150 dots per inch."""
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
