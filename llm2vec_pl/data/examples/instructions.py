"""The texts written before a task's texts: a table of instructions, in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm2vec_pl.errors import UserError

PUBLIC_E5 = Path(__file__).with_name("instructions.yaml")


@dataclass(frozen=True)
class Instruction:
    """A text written directly before a task's texts.

    Args:
        texts: one, or several from which each batch draws one; each ends with its own separator.
        symmetric: whether positives and negatives get it too.
        paper_rate: the share of the original data that the paper trained on.
    """

    texts: tuple[str, ...] = ("",)
    symmetric: bool = False
    paper_rate: float = 1.0


def read_instructions(path: str | None = None) -> dict[str, Instruction]:
    """The table of the paper's tasks; a user's own entries override it.

    Args:
        path: a YAML file: task -> an instruction, a list of them, or a mapping with `instruction`
            and, optionally, `symmetric` and `paper_rate`. None: only the paper's table.

    Raises:
        UserError: if the file does not exist or does not have this form.
    """
    table = _read(PUBLIC_E5)
    return table | _read(Path(path).expanduser()) if path is not None else table


def _read(path: Path) -> dict[str, Instruction]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"`instructions={str(path)!r}` cannot be read: {error}") from error
    if not isinstance(content, Mapping):
        raise UserError(
            f"`instructions={str(path)!r}`: expected a mapping from task to instruction, "
            f"but got {type(content).__name__}."
        )
    return {str(task): _instruction(entry, f"{path}, {task}") for task, entry in content.items()}


def _instruction(entry: Any, where: str) -> Instruction:
    options = dict(entry) if isinstance(entry, Mapping) else {"instruction": entry}
    texts = options.pop("instruction", "")
    texts = texts if isinstance(texts, list) else [texts]
    unknown = set(options) - {"symmetric", "paper_rate"}
    right = texts and all(isinstance(text, str) for text in texts)
    right = right and isinstance(options.get("symmetric", False), bool)
    right = right and isinstance(options.get("paper_rate", 1.0), (int, float))
    if unknown or not right:
        raise UserError(
            f"`instructions`: {where}: expected an instruction, a list of them, or a mapping "
            f"with instruction, symmetric and paper_rate, but got {entry!r}."
        )
    return Instruction(tuple(texts), **options)
