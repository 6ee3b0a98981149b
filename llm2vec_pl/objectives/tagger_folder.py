"""A trained tagger on disk: its linear layer, its labels, and what its encoder is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from llm2vec_pl.decoder import ENCODER
from llm2vec_pl.encoder import Encoder, pinned_flags
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import read_json, unfinished, write_json

if TYPE_CHECKING:
    from llm2vec_pl.objectives.token_classification import TokenClassification

RECORD = "tagger.json"
WEIGHTS = "head.safetensors"


def write_tagger(tagger: TokenClassification, folder: Path) -> Path:
    """Writes a tagger; the folder appears whole or not at all.

    Returns:
        The folder.
    """
    from safetensors.torch import save_file

    head = tagger.heads[str(tagger.shift)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(folder) as new:
        new.mkdir()
        weights = {name: value.detach().cpu() for name, value in head.state_dict().items()}
        save_file(weights, new / WEIGHTS)
        record = {
            "labels": tagger.labels,
            "has_spans": tagger.has_spans,
            "shift": tagger.shift,
            "encoder": _flags(tagger.encoder) if tagger.is_frozen else None,
        }
        write_json(new / RECORD, record)
    return folder


def read_tagger(
    folder: Path, overrides: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor], Encoder]:
    """Reads what `write_tagger` wrote, and opens the encoder.

    Args:
        folder: the folder.
        overrides: arguments of `Encoder` that replace the recorded ones.

    Returns:
        The record, the layer's weights, and the encoder.

    Raises:
        UserError: if the folder holds no tagger.
    """
    from safetensors.torch import load_file

    record = read_json(folder / RECORD)
    if not record or not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{folder} is no folder of a tagger (looked for {RECORD} and {WEIGHTS} in "
            f"{folder.absolute()}). A run of recipes/word_task.py leaves one, tagger/."
        )
    flags = dict(record["encoder"] or {"model_name": str(folder.resolve().parent / ENCODER)})
    flags |= overrides
    if "model_name" in overrides:  # the fingerprint still says whether it is the same one
        flags["revision"] = overrides.get("revision")
    encoder = Encoder.from_pretrained(flags.pop("model_name"), **flags)
    return record, load_file(folder / WEIGHTS), encoder


def _flags(encoder: Encoder) -> dict[str, Any]:
    """The arguments that give the same states again."""
    rules = encoder.tokenize.rules
    return {
        **pinned_flags(encoder),
        "bidirectional": encoder.bidirectional,
        "dtype": encoder.dtype,  # else a CPU with bfloat16 would choose that
        "quantization": encoder.quantization,
        "trust_remote_code": encoder.trust_remote_code,
        **{name: rules[name] for name in ("max_length", "template", "control_tokens")},
    }
