"""The encoders that a soup is made of, and whether they may be averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from llm2vec_pl.decoder import (
    LINEAGE,
    Source,
    adapter_fingerprint,
    locate,
    read_settings,
    read_tokenizer,
    weight_files,
    weights_fingerprint,
)
from llm2vec_pl.encoder.origin import origin_of
from llm2vec_pl.encoder.tokenizer_fingerprint import tokenizer_content
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import read_json
from llm2vec_pl.lora import differing

COMPARED = (
    *("bidirectional", "pooling", "max_length", "template", "rendered_template"),
    *("control_tokens", "quantization", "dtype"),
    *("reference_quirks", "doc_max_length", "skip_instruction"),
)
"""Entries of `llm2vec_config.json` in which all parents must agree."""

ORIGINS = ("base_model", "base_revision", "base_fingerprint", "earlier_adapters")
"""Entries that say where the weights come from; all others are notes on the training."""

NAMES_ONLY = ("_name_or_path", "_model_name_or_path", "transformers_version")
"""Entries of `config.json` that do not change what a model computes."""


@dataclass(frozen=True)
class Parent:
    """An encoder that a run has left.

    Args:
        source: its parts.
        folder: of what the run trained: the adapter or the full weights, with the tokenizer.
        settings: its `llm2vec_config.json`.
        lineage: its `lineage.json`.
        base: the fingerprint of the full weights that it was trained from.
        below: for an adapter, the fingerprints of those merged before it.
        began: for full weights, the fingerprint of what the last stage began with, adapters that
            were merged into the base included; None if it is not recorded.
    """

    source: Source
    folder: Path
    settings: dict[str, Any]
    lineage: dict[str, Any]
    base: str
    below: tuple[str, ...] = ()
    began: str | None = None

    @property
    def name(self) -> str:
        """The folder, or the name on the hub."""
        return self.source.name

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter; otherwise it is full weights."""
        return bool(self.source.adapters)

    @cached_property
    def files(self) -> list[str]:
        """The safetensors files of full weights, fetched if the hub's cache lacks them."""
        return weight_files(self.source)

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of what the run trained."""
        if self.is_adapter:
            return adapter_fingerprint(self.folder)
        return weights_fingerprint(self.files)

    @property
    def stages(self) -> list[dict[str, Any]]:
        """The record of its stages."""
        return list(self.lineage.get("stages", []))

    @property
    def notes(self) -> dict[str, Any]:
        """What the training has noted for users, such as instructions."""
        known = {*COMPARED, *ORIGINS}
        return {key: value for key, value in self.settings.items() if key not in known}


def read_parent(name: str) -> Parent:
    """An encoder that a run, `save_encoder` or an earlier soup has left.

    Args:
        name: a folder, a recipe's folder for its newest run, or a name on the hub.

    Raises:
        UserError: if there is none of ours, or it does not say what it was trained on.
    """
    try:
        source = locate(name)
    except UserError as error:
        reason = str(error).removeprefix("`model_name`: ")
        raise UserError(f"{name} cannot be averaged: {reason}") from error
    if source.folder is None:
        raise UserError(
            f"{name} was not written by one of the recipes: it has no {LINEAGE}, which says what "
            "it was trained from. Name the folder of a run's encoder, such as "
            "runs/mntp/version_0/encoder."
        )
    settings, lineage = read_settings(source), read_json(source.folder / LINEAGE)
    base = settings.get("base_fingerprint")
    if source.adapters:
        below = source.adapters[:-1]
        base = base or origin_of(source, ()).base  # a folder from before it was recorded
        fingerprints = tuple(adapter_fingerprint(folder) for folder in below)
        return Parent(source, source.folder, settings, lineage, base, fingerprints)
    if base is None:
        raise UserError(
            f"{name} has full weights, and does not say from which ones they were trained: weights "
            "that were drawn at random, each anew, have no average. Name runs that began with the "
            "same weights."
        )
    began = _began(lineage)
    return Parent(source, source.folder, settings, lineage, base, began=began)


def require_same_form(parents: Sequence[Parent]) -> None:
    """Checks that encoders began alike and embed texts in the same way.

    Raises:
        UserError: naming the first difference and the folders of two encoders that differ.
    """
    first = parents[0]
    tokenizer = _tokenizer(first)
    for other in parents[1:]:
        names = first.name, other.name
        if first.is_adapter != other.is_adapter:
            kinds = [("full weights", "an adapter")[p.is_adapter] for p in (first, other)]
            raise differing(names, "The kind of weights", *kinds)
        if first.base != other.base:
            what = "The fingerprint of the weights that it was trained from"
            raise differing(names, what, first.base, other.base)
        if first.below != other.below:
            what = "The list of the earlier adapters' fingerprints"
            raise differing(names, what, list(first.below), list(other.below))
        if first.began and other.began and first.began != other.began:
            what = "The fingerprint of what the last stage began with"
            raise differing(names, what, first.began, other.began)
        for key in COMPARED:
            if first.settings.get(key) != other.settings.get(key):
                values = first.settings.get(key), other.settings.get(key)
                raise differing(names, f"`{key}`", *values)
        if tokenizer != _tokenizer(other):
            raise differing(names, "The tokenizer", tokenizer, _tokenizer(other))
        if not first.is_adapter:
            _require_same_config(first, other)


def shared_notes(parents: Sequence[Parent]) -> dict[str, Any]:
    """The notes in which all agree; of tables, such as prompts, each row that no other denies."""
    shared: dict[str, Any] = {}
    for key in dict.fromkeys(key for parent in parents for key in parent.notes):
        values = [parent.notes[key] for parent in parents if key in parent.notes]
        if all(isinstance(value, dict) for value in values):
            table = {name: row for value in values for name, row in value.items()}
            shared[key] = {
                name: row
                for name, row in table.items()
                if all(value.get(name, row) == row for value in values)
            }
        elif len(values) == len(parents) and all(value == values[0] for value in values):
            shared[key] = values[0]
    return shared


def _began(lineage: dict[str, Any]) -> str | None:
    """The fingerprint of what the last stage began with, as its record says."""
    last = (lineage.get("stages") or [{}])[-1]
    config = last.get("config")
    flags = config.get("encoder") if isinstance(config, dict) else None
    began = last.get("began") or (flags or {}).get("fingerprint")
    return str(began) if began else None


def _tokenizer(parent: Parent) -> str:
    tokenizer = read_tokenizer(parent.source)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer_content(tokenizer)


def _require_same_config(first: Parent, other: Parent) -> None:
    one, two = (read_json(parent.folder / "config.json") for parent in (first, other))
    for key in sorted(one.keys() | two.keys()):
        if key not in NAMES_ONLY and one.get(key) != two.get(key):
            what = f"`{key}` in config.json"
            raise differing((first.name, other.name), what, one.get(key), two.get(key))
