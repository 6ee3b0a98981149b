"""Prompts: instructions that an encoder knows by name, such as `query` and `document`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm2vec_pl.errors import UserError

QUERY = ("query",)
DOCUMENT = ("document", "passage", "corpus")
"""Names under which `encode_query` and `encode_document` look, in this order."""


def require_prompts(prompts: Any) -> None:
    """Raises a `UserError` unless these are strings by name, or None."""
    if prompts is None:
        return
    if not isinstance(prompts, Mapping):
        raise UserError(
            "`prompts` holds instructions by name, such as "
            f'{{"query": "Find the page: "}}, but got {prompts!r}.'
        )
    for name, prompt in prompts.items():
        if not isinstance(name, str) or not isinstance(prompt, str):
            raise UserError(
                "The names and texts in `prompts` are strings, but got "
                f"{name!r}: {prompt!r} ({type(prompt).__name__})."
            )


def chosen_prompt(
    prompts: Mapping[str, str],
    instruction: str | Sequence[str],
    prompt: str | Sequence[str] | None,
    prompt_name: str | None,
) -> str | Sequence[str]:
    """The instruction that the arguments of `encode` mean.

    Raises:
        UserError: if there are several, or none of the name.
    """
    # An array of instructions has no truth value.
    given = {
        "instruction": not (isinstance(instruction, str) and instruction == ""),
        "prompt": prompt is not None,
        "prompt_name": prompt_name is not None,
    }
    named = [f"`{name}`" for name, is_given in given.items() if is_given]
    if len(named) > 1:
        raise UserError(f"{' and '.join(named)} all say what is written before a text. Give one.")
    if prompt_name is not None:
        return prompt_called(prompts, prompt_name)
    return instruction if prompt is None else prompt


def prompt_called(prompts: Mapping[str, str], name: str) -> str:
    """The prompt of a name.

    Raises:
        UserError: if there is none.
    """
    if name not in prompts:
        known = f"it has {', '.join(prompts)}" if prompts else "it has no prompts"
        raise UserError(
            f"The encoder has no prompt named {name!r}: {known}. Write the text itself in "
            '`prompt`, or open the encoder with `prompts={"' + str(name) + '": "..."}`.'
        )
    return prompts[name]


def first_of(names: Sequence[str], prompts: Mapping[str, str]) -> str | None:
    """The first of the names that has a prompt; None if none of them does."""
    return next((name for name in names if name in prompts), None)
