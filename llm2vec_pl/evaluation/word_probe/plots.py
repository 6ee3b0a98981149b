"""The paper's figure of word-level tasks, and the score by layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm2vec_pl.evaluation.word_probe.results import Summary, Value

# Okabe and Ito's colours, which readers with any kind of colour vision tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
MARKERS = "osD^vPX*"
NAMES = {"accuracy": "accuracy (%)", "f1": "F1 of spans (%)"}
HATCHES = {"0": "", "1": "///"}


def plot_encoders(found: Sequence[Summary], file: Path) -> list[Path]:
    """Draws the last layer that was probed of each encoder: a panel for each task, a bar each.

    Args:
        found: what was measured.
        file: the picture to write.

    Returns:
        The file.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    tasks = list(dict.fromkeys(each.task for each in found))
    plt = _pyplot()
    figure, panels = plt.subplots(
        1, len(tasks), figsize=(1.0 + 3.6 * len(tasks), 4.0), squeeze=False, layout="constrained"
    )
    for panel, task in zip(panels[0], tasks, strict=True):
        _bars(panel, _deepest([each for each in found if each.task == task]))
        panel.set_title(task)
    figure.supxlabel("\n".join(_legend(found, panels[0])), fontsize=8)
    return _saved(figure, file)


def plot_layers(found: Sequence[Summary], file: Path) -> list[Path]:
    """Draws the score by layer, if any encoder was probed at several: a panel for each task.

    Args:
        found: what was measured.
        file: the picture to write.

    Returns:
        The file, if it was written.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    plt = _pyplot()
    lines: dict[str, dict[str, list[Summary]]] = {}
    for each in found:
        lines.setdefault(each.task, {}).setdefault(each.encoder, []).append(each)
    if all(len(points) < 2 for encoders in lines.values() for points in encoders.values()):
        return []
    encoders = list(dict.fromkeys(each.encoder for each in found))
    same = len({each.last for each in found}) == 1
    axis = "layer (0: embeddings)" if same else "layer / number of layers (0: embeddings)"
    figure, panels = plt.subplots(
        1, len(lines), figsize=(1.0 + 4.4 * len(lines), 4.2), squeeze=False, layout="constrained"
    )
    for panel, (task, drawn) in zip(panels[0], lines.items(), strict=True):
        for encoder, points in drawn.items():
            ordered = sorted(points, key=lambda each: each.layer)
            depth = [each.layer if same else each.layer / each.last for each in ordered]
            _line(panel, encoder, depth, ordered, encoders.index(encoder))
        score = next(iter(drawn.values()))[0].score
        panel.set(title=task, xlabel=axis, ylabel=NAMES[score])
        _clean(panel)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    return _saved(figure, file)


def _legend(found: Sequence[Summary], panels: Sequence[Any]) -> list[str]:
    """What bars and lines mean, in lines that are narrow enough for one panel."""
    seeds = found[0].value().seeds
    lines = [f"mean of {seeds} seeds ± standard deviation"] if seeds > 1 else ["one seed"]
    if any(each.shift == "1" for each in found):
        lines.append("hatched: states taken one position earlier")
    if any(panel.get_ylim()[0] > 0 for panel in panels):
        lines.append("axes that do not begin at 0 enlarge differences")
    return lines


def _bars(panel: Any, shown: Sequence[Summary]) -> None:
    for place, each in enumerate(shown):
        value = each.value()
        panel.bar(
            place,
            100 * value.mean,
            yerr=100 * value.deviation if value.seeds > 1 else None,
            color=COLOURS[place % len(COLOURS)],
            edgecolor="white",
            hatch=HATCHES.get(each.shift, ""),
            capsize=4,
        )
        top = 100 * (value.mean + value.deviation)
        panel.annotate(
            f"{100 * value.mean:.1f}",
            (place, top),
            (0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    panel.set_xticks(range(len(shown)), [each.encoder for each in shown], rotation=30, ha="right")
    panel.set_ylabel(NAMES.get(shown[0].score, shown[0].score))
    panel.set_ylim(*_range([each.value() for each in shown]))
    _clean(panel)


def _line(
    panel: Any, encoder: str, depth: Sequence[float], points: Sequence[Summary], number: int
) -> None:
    colour = COLOURS[number % len(COLOURS)]
    means = [100 * each.value().mean for each in points]
    spread = [100 * each.value().deviation for each in points]
    marker = MARKERS[number % len(MARKERS)]
    panel.plot(depth, means, color=colour, marker=marker, markersize=5, label=encoder)
    low = [mean - each for mean, each in zip(means, spread, strict=True)]
    high = [mean + each for mean, each in zip(means, spread, strict=True)]
    panel.fill_between(depth, low, high, color=colour, alpha=0.2, linewidth=0)


def _deepest(found: Sequence[Summary]) -> list[Summary]:
    """The deepest layer of each encoder."""
    best: dict[str, Summary] = {}
    for each in found:
        if each.encoder not in best or each.layer > best[each.encoder].layer:
            best[each.encoder] = each
    return list(best.values())


def _range(values: Sequence[Value]) -> tuple[float, float]:
    """An axis on which the bars differ visibly, without a bar that is cut to nothing."""
    low = min(100 * (value.mean - value.deviation) for value in values)
    high = max(100 * (value.mean + value.deviation) for value in values)
    room = max(high - low, 2.0)
    return max(0.0, low - room), min(103.0, high + 0.2 * room)


def _clean(panel: Any) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", alpha=0.3)
    panel.set_axisbelow(True)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _saved(figure: Any, file: Path) -> list[Path]:
    figure.savefig(file, dpi=150)
    _pyplot().close(figure)
    return [file]
