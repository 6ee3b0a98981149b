"""`make test` runs at least one architecture of each mechanism: nothing is without a member there."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from architecture_sample import QUICK, SAMPLE
from test_architectures import (
    ARCHITECTURES,
    HYBRIDS,
    LEFT_PADDING_NEEDS_POSITIONS,
    PADS,
    TELLING,
    is_refused,
)
from test_packed_attention import OWN_ATTENTION
from tiny_models import tiny_causal_lm, tiny_config

from llm2vec_pl.decoder import architectures

ROOT = Path(__file__).parents[2]

MODEL_TYPES = ("REFUSED", "TRIANGULAR_BUFFERS", "FIXED_ATTENTION_DROPOUT", "LEARNED_POSITIONS")
"""Constants that name architectures of one kind."""

VALUES = {
    "BIDIRECTIONAL_ATTENTION_FLAG": architectures.BIDIRECTIONAL_ATTENTION_FLAG,
    "LEARNED_POSITIONS": architectures.LEARNED_POSITIONS,
}
"""Constants whose every value wants a member."""

ENTRIES = ("WINDOW_SIZES", "ATTENTION_DROPOUTS")
"""Constants that name entries of configurations: each that an architecture has wants a member."""

CLASSES = ("CAUSAL_MODULES", "FUSED_OUT_PROJ")
"""Constants that hold parts of the names of classes: each wants a member."""


def text_types(names: Iterable[str]) -> set[str]:
    return {tiny_config(name).model_type for name in names}


@functools.cache
def classes_in_the_sample() -> frozenset[str]:
    with torch.device("meta"):
        models = [tiny_causal_lm(name) for name in SAMPLE if name in HYBRIDS]
    return frozenset(type(module).__name__ for model in models for module in model.modules())


def test_a_new_table_of_architectures_needs_a_member_too():
    tables = {name for name in vars(architectures) if name.isupper()}
    assert tables == {*MODEL_TYPES, *VALUES, *ENTRIES, *CLASSES}


@pytest.mark.parametrize("table", MODEL_TYPES)
def test_each_table_of_architectures_has_a_member(table):
    assert set(getattr(architectures, table)) & text_types(SAMPLE)


@pytest.mark.parametrize("table", VALUES)
def test_each_value_in_a_table_of_architectures_has_a_member(table):
    in_sample = [VALUES[table][name] for name in text_types(SAMPLE) if name in VALUES[table]]
    assert set(in_sample) == set(VALUES[table].values())


@pytest.mark.parametrize("table", ENTRIES)
def test_each_entry_of_a_configuration_has_a_member(table):
    def entries(names: Iterable[str]) -> set[str]:
        configs = [tiny_config(name) for name in names if not is_refused(name)]
        return {e for e in getattr(architectures, table) for c in configs if getattr(c, e, None) is not None}  # fmt: skip

    assert entries(SAMPLE) == entries(ARCHITECTURES)


@pytest.mark.parametrize(
    "part", [part for table in CLASSES for part in getattr(architectures, table)]
)
def test_each_module_that_stays_causal_or_takes_weights_has_a_member(part):
    assert any(part in name for name in classes_in_the_sample())


def test_each_kind_of_layer_has_a_member():
    def kinds(names: Iterable[str]) -> set[str]:
        return {
            kind
            for name in names
            if not is_refused(name)
            for kind in getattr(tiny_config(name), "layer_types", None) or ()
        }

    assert kinds(SAMPLE) == kinds(ARCHITECTURES)


def test_each_way_of_changing_logits_has_a_member():
    def changes(names: Iterable[str]) -> set[str]:
        configs = [tiny_config(name) for name in names if not is_refused(name)]
        return {entry for entry in TELLING for config in configs if hasattr(config, entry)}

    assert changes(SAMPLE) == changes(ARCHITECTURES)


@pytest.mark.parametrize(
    "exceptions", [HYBRIDS, LEFT_PADDING_NEEDS_POSITIONS, PADS - HYBRIDS, OWN_ATTENTION]
)
def test_each_exception_that_the_tests_know_has_a_member(exceptions):
    assert exceptions & set(SAMPLE)


def test_the_architectures_that_the_pages_name_are_in_it():
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    text = "\n".join(page.read_text() for page in pages)
    rows = re.findall(r"^\| ([\w.-]+) \| (?:full|hybrid|refused) ", text, re.MULTILINE)
    assert set(rows) <= set(SAMPLE)


def test_the_quick_ones_and_the_sample_are_architectures():
    assert set(SAMPLE) >= QUICK
    assert set(ARCHITECTURES) >= set(SAMPLE)
    assert all(SAMPLE.values())
