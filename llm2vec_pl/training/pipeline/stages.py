"""Which stages a pipeline has: their names, their order, their flags."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from llm2vec_pl.errors import UserError

STAGES = ("mntp", "simcse", "supervised")
ROWS = {
    "mntp": "+ MNTP",
    "simcse": "+ SimCSE",
    "distill": "+ distillation",
    "supervised": "supervised",
}
BIDIRECTIONAL = "mntp"  # the stage that a causal decoder has no use for


def checked(stages: Iterable[str], recipes: Path, configs: Path) -> tuple[str, ...]:
    """The stages, if they can be run.

    Raises:
        UserError: if there is none, one comes twice, or one lacks its recipe or its configuration.
    """
    stages = tuple(stages)
    if not stages or len(set(stages)) < len(stages):
        raise UserError(
            "--stages expects different stages separated by commas, such as "
            f"{','.join(STAGES)}, but got {','.join(stages) or 'none'}."
        )
    if unknown := [stage for stage in stages if not (recipes / f"{stage}.py").is_file()]:
        known = [stage for stage in ROWS if (recipes / f"{stage}.py").is_file()]
        raise UserError(
            f"--stages: there is no recipe for {', '.join(map(repr, unknown))} (looked for "
            f"{recipes / unknown[0]}.py). The stages are {', '.join(known)}."
        )
    files = [configs / f"{stage}.yaml" for stage in stages]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise UserError(f"--configs {configs} lacks {', '.join(missing)}. Write it there.")
    return stages


def row_of(stage: str) -> str:
    """A stage's name in the table."""
    return ROWS.get(stage, f"+ {stage}")


def before(stage: str, stages: Sequence[str], supervised_from: str | None) -> str | None:
    """The stage that one starts from; None for the decoder.

    It is the stage before, except that supervised training starts from the one it is told to. By
    default that is MNTP, the paper's best; without MNTP, the decoder.

    Args:
        stage: one of the stages.
        stages: all stages in their order.
        supervised_from: what supervised training starts from.

    Raises:
        UserError: if supervised training is to start from a stage that does not come before it.
    """
    earlier = stages[: stages.index(stage)]
    if stage != "supervised":
        return earlier[-1] if earlier else None
    if supervised_from in earlier:
        return supervised_from
    if supervised_from is not None:
        raise UserError(
            f"--supervised_from {supervised_from} is not a stage before supervised; those are "
            f"{', '.join(earlier) or 'none'}. Name one of them, or add it to --stages."
        )
    return BIDIRECTIONAL if BIDIRECTIONAL in earlier else None


def flags_of(stage: str, flags: Sequence[str], stages: Iterable[str] = ()) -> list[str]:
    """The flags for a stage: those for all, and its own, such as `--mntp.model.x 1`.

    Args:
        stage: the stage.
        flags: the flags for all stages.
        stages: the stages of the pipeline. What belongs to others is left out.
    """
    owners = {*ROWS, *stages}
    chosen: list[str] = []
    wanted = True
    for word in flags:
        if word.startswith("--"):
            owner = next((s for s in owners if word.startswith(f"--{s}.")), None)
            wanted = owner in (None, stage)
            word = word.replace(f"--{owner}.", "--", 1)
        if wanted:
            chosen.append(word)
    return chosen
