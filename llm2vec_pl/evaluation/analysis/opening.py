"""A decoder opened as causal and as bidirectional, and the encoders that were trained from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from llm2vec_pl.decoder import LINEAGE, locate
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.analysis.run import Open
from llm2vec_pl.files import read_json

BOTH = {"causal": False, "bidirectional": True}
SETTINGS = {"max_length": 128, "dtype": "float32"}
"""For all encoders alike, so that they are compared on the same tokens."""


def named_encoders(trained: Sequence[str], options: Mapping[str, Any]) -> dict[str, Open]:
    """What opens each encoder, by name: the decoder twice, then the trained encoders.

    Args:
        trained: NAME=FOLDER of each; a folder alone is its own name.
        options: arguments of `Encoder` for all. `model_name` is the decoder; by default that of
            the first trained encoder, or `tiny`.

    Raises:
        UserError: if a name is there twice, or a folder is not found.
    """
    options = {**SETTINGS, **options}
    folders: dict[str, str] = {}
    for text in trained:
        name, sign, folder = text.partition("=")
        folder = folder if sign else text
        if not (name and folder):
            raise UserError(f"`encoders` expects NAME=FOLDER, but got {text!r}.")
        if name in BOTH or name in folders:
            raise UserError(
                f"`encoders`: each name is there once, and {' and '.join(BOTH)} are the decoder, "
                f"but got {text!r}. Give it another name."
            )
        locate(folder)  # an error now rather than after the first encoders
        folders[name] = folder
    decoder = options.pop("model_name", None)
    revision = options.pop("revision", None)
    if decoder is None:
        decoder, revision = _decoder_of(next(iter(folders.values()))) if folders else ("tiny", None)
    locate(decoder, revision)
    return {
        **{
            name: partial(_open, decoder, {**options, "bidirectional": both, "revision": revision})
            for name, both in BOTH.items()
        },
        **{name: partial(_open, folder, options) for name, folder in folders.items()},
    }


def _open(folder: str, options: Mapping[str, Any], attention: str | None = None) -> Encoder:
    return Encoder.from_pretrained(folder, **options, attention=attention)


def _decoder_of(trained: str) -> tuple[str, str | None]:
    """Name and revision of the decoder that a trained encoder goes back to."""
    source = locate(trained)
    lineage = read_json(source.folder / LINEAGE) if source.folder else {}
    if "base_model" in lineage:
        return lineage["base_model"], lineage.get("revision")
    return source.base_name, source.revision
