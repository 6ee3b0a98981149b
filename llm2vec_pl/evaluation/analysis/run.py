"""Several encoders through several analyses: a table, numbers and a figure for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation import print_table
from llm2vec_pl.evaluation.analysis.kinds import ANALYSES, Analysis
from llm2vec_pl.evaluation.analysis.material import Material
from llm2vec_pl.files import write_json

Open = Callable[..., Encoder]
Found = dict[str, Any]  # encoder -> what the analysis found


def chosen_analyses(names: str) -> list[str]:
    """The analyses of a list with commas.

    Raises:
        UserError: if one is unknown.
    """
    chosen = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if unknown := [name for name in chosen if name not in ANALYSES]:
        raise UserError(
            f"`analyses` expects some of {','.join(ANALYSES)}, separated by commas, but got "
            f"{unknown[0]!r}."
        )
    if not chosen:
        raise UserError(
            f"`analyses` expects at least one of {','.join(ANALYSES)}, but got {names!r}."
        )
    return chosen


def analyse(
    encoders: Mapping[str, Open],
    analyses: Sequence[str],
    material: Material,
    out: Path,
    report: Callable[[str], object] = print,
) -> dict[str, Found]:
    """Opens one encoder after the other, measures, and writes tables, numbers and figures.

    Args:
        encoders: what opens each encoder, by its name, given `attention`. `similarity` compares
            the others with the first one.
        analyses: names of analyses.
        material: what they look at.
        out: the folder for ANALYSIS.json and, if matplotlib is installed, ANALYSIS.png.
        report: called with lines that say how far it is.

    Returns:
        For each analysis what it found in each encoder. If it is interrupted or an encoder fails,
        what the encoders before it gave is written nevertheless.

    Raises:
        UserError: if an encoder cannot be opened, or does not fit an analysis.
    """
    kinds = [ANALYSES[name](material) for name in analyses]
    found: dict[str, Found] = {kind.name: {} for kind in kinds}
    try:
        for name, opened in encoders.items():
            report(f"{name}: {', '.join(analyses)}")
            _measure(name, opened, kinds, found)
    finally:
        for kind in kinds:
            if found[kind.name]:
                _write(kind, found[kind.name], out, report)
    return found


def _measure(name: str, opened: Open, kinds: list[Analysis], found: dict[str, Found]) -> None:
    """One encoder; its weights are in memory once, and twice in turn if attention is looked at."""
    for attention in (None, "eager"):
        due = [kind for kind in kinds if kind.attention == attention]
        if due:
            encoder = opened(attention=attention)
            for kind in due:
                result = kind.measure(encoder)
                if result is not None:
                    found[kind.name][name] = result
            del encoder


def _write(kind: Analysis, found: Found, out: Path, report: Callable[[str], object]) -> None:
    print_table(kind.table(found), title=kind.title, notes=[kind.note])
    content = {"analysis": kind.name, "of": kind.note, "encoders": kind.plain(found)}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{kind.name}.json", content)
    try:
        from llm2vec_pl.evaluation.analysis.figures import require_matplotlib, save_figure

        require_matplotlib()
    except UserError as error:
        report(f"Wrote {out / kind.name}.json. {error}")
        return
    save_figure(kind.plot(found), out / f"{kind.name}.png")
    report(f"Wrote {out / kind.name}.json and .png\n")
