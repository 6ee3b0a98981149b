"""What is written before the texts of a task: the paper's words (Table 10), or the user's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.mteb.installed import get_abstask_prompt, get_prompt_name
from llm2vec_pl.files import fingerprint

if TYPE_CHECKING:
    from mteb.types import PromptType

    from llm2vec_pl.evaluation.mteb.installed import TaskMetadata

PAPER, MODEL, NONE = "paper", "model", "none"


class Instructions:
    """The instruction of each task.

    In the paper's evaluation, instructions stand before queries only: documents of retrieval and
    reranking are bare, and in all other tasks every text has the same one (section 3.2 and the
    authors' script). Tasks that the paper does not know have the words that MTEB suggests.

    Args:
        source: `paper`; `model` for the encoder's own prompts, by the name of a task, of its type,
            or `query` and `document`; `none` for bare texts; or a YAML file,
            `TASK: "instruction "`, whose instructions are written exactly as they stand there;
            tasks that are not in it have the paper's.
        prompts: the encoder's own.

    Raises:
        UserError: if the file does not exist or is not of that form, or the encoder has no prompts.
    """

    def __init__(self, source: str = PAPER, prompts: Mapping[str, str] | None = None) -> None:
        self.source = source
        self._prompts = dict(prompts or {})
        is_word = source in (PAPER, MODEL, NONE)
        self._own = {} if is_word else _read(Path(source).expanduser())
        if source == MODEL and not self._prompts:
            raise UserError(
                f"`instructions={MODEL!r}` expects an encoder with `prompts` in its configuration, "
                f"but this one has none. Use {PAPER!r}, {NONE!r} or a YAML file."
            )

    def __call__(self, task: TaskMetadata, side: PromptType | None) -> str:
        """The instruction for one side of a task; the paper has none for documents.

        Args:
            task: the task.
            side: query or document in tasks that tell the two apart, otherwise None.
        """
        if self.source == MODEL:
            name = get_prompt_name(self._prompts, task, side)
            return self._prompts[name] if name else ""
        if self.source == NONE or (side is not None and side.value == "document"):
            return ""
        if task.name in self._own:
            return self._own[task.name]
        return written(_paper().get(task.name) or _suggested(task))

    def fingerprint(self) -> str:
        """Changes when an instruction does."""
        own = self._prompts if self.source == MODEL else self._own
        return fingerprint({"source": "" if self._own else self.source, "own": own})


def written(instruction: str) -> str:
    """An instruction as the authors write it before a text: with a colon and a blank.

    >>> written("Retrieve semantically similar text.")
    'Retrieve semantically similar text: '
    """
    instruction = instruction.strip().rstrip(".")
    if not instruction:
        return ""
    return f"{instruction} " if instruction.endswith(":") else f"{instruction}: "


def _suggested(task: TaskMetadata) -> str:
    """MTEB's own instruction: the task's, or else that of its type."""
    prompt = task.prompt
    if isinstance(prompt, dict):
        return str(prompt.get("query", ""))
    return str(prompt or get_abstask_prompt(task.name))


@cache
def _paper() -> dict[str, str]:
    """Task -> instruction."""
    file = Path(__file__).with_name("instructions.yaml")
    table: dict[str, list[str]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {task: instruction for instruction, tasks in table.items() for task in tasks}


def _read(file: Path) -> dict[str, str]:
    if not file.is_file():
        raise UserError(
            f"`instructions`: expected {PAPER}, {MODEL}, {NONE} or a YAML file, but there is no "
            f"{file}."
        )
    try:
        table = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid YAML ({error}). Correct it.") from error
    if not isinstance(table, dict) or not all(isinstance(text, str) for text in table.values()):
        raise UserError(
            f'{file}: expected one line for each task, such as `SciFact: "Find proof: "`, but got '
            f"{str(table)[:80]}."
        )
    return {str(task): text for task, text in table.items()}
