"""What an encoder is made from, and the refusal to put an adapter on anything else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm2vec_pl.decoder import (
    EARLIER,
    Origin,
    Source,
    adapter_fingerprint,
    adapter_settings,
    display_name,
    weight_files,
    weights_fingerprint,
)
from llm2vec_pl.errors import UserError

if TYPE_CHECKING:
    from llm2vec_pl.encoder.encoder import Encoder


def origin_of(source: Source, adapters: Sequence[str]) -> Origin:
    """The fingerprints of full weights and of the adapters on top of them.

    Args:
        source: of the weights, which are fetched where the hub's cache lacks them.
        adapters: folders, in the order of merging.
    """
    files: Sequence[str | Path] = weight_files(source) or sorted(
        Path(source.base).glob("*.safetensors")
    )
    return Origin(
        weights_fingerprint(files), tuple(adapter_fingerprint(folder) for folder in adapters)
    )


def pinned_flags(encoder: Encoder) -> dict[str, Any]:
    """The `--encoder` flags that name just what this encoder is made from.

    `runs/mntp` is another run later, and a branch of the hub another commit.

    Args:
        encoder: one that need not be loaded.
    """
    source = encoder.source
    further = encoder.adapters[len(source.adapters) :]
    flags: dict[str, Any] = {
        "model_name": source.name,
        "revision": source.name_revision,
        "adapters": [display_name(folder) for folder in further] or None,
    }
    if not encoder.random_weights:
        flags["fingerprint"] = str(encoder.origin or origin_of(source, encoder.adapters))
    return flags


def require_origin(encoder: Encoder, origin: Origin | None) -> None:
    """Checks that adapters come onto the weights that they were trained on.

    Args:
        encoder: one that is being loaded.
        origin: what it is loaded from; None of random weights.

    Raises:
        UserError: with what was expected, what came and what to do.
    """
    if origin is None:
        return
    for adapter, expected in encoder.trained_on:
        if expected != origin.base:
            raise UserError(
                f"The adapter {adapter} was trained on weights with the fingerprint {expected}, "
                f"but {encoder.source.base_name} has {origin.base} now: it would embed wrongly. "
                'Put the former weights back, or write where they lie as "base_model" in the '
                "adapter's llm2vec_config.json. To use it on these weights all the same, delete "
                '"base_fingerprint" there.'
            )
    for i, folder in enumerate(encoder.adapters):
        missing = set(_earlier_fingerprints(folder)) - set(origin.adapters[:i])
        if missing:
            raise UserError(
                f"The adapter {display_name(folder)} was trained on top of earlier ones, of which "
                f"{len(missing)} are missing or changed. Name it with --encoder.model_name, which "
                "brings them along, not with --encoder.adapters."
            )
    if encoder.fingerprint not in (None, str(origin)):
        raise UserError(
            f"--encoder.fingerprint {encoder.fingerprint} is not that of {encoder.source.name}, "
            f"which has {origin}: something else lies there now. Name the weights and adapters of "
            "before, or set --encoder.fingerprint null to train on these."
        )


def _earlier_fingerprints(folder: str) -> list[str]:
    """Of the adapters that one was trained on top of, where that is known."""
    recorded = adapter_settings(folder).get("earlier_adapters")
    if recorded is not None:
        return [earlier["fingerprint"] for earlier in recorded]
    return [adapter_fingerprint(path) for path in (Path(folder) / EARLIER).glob("*")]


def recorded_origin(encoder: Encoder) -> dict[str, Any]:
    """What a checkpoint says about what its weights were trained on."""
    return {
        "model_name": encoder.source.name,
        "revision": encoder.source.name_revision,
        "fingerprint": str(encoder.origin) if encoder.origin else None,
    }


def require_same_origin(checkpoint: dict[str, Any], encoder: Encoder, flag: str) -> None:
    """Checks that a checkpoint comes back onto what it was trained on.

    Args:
        checkpoint: as Lightning reads it; one from before this was recorded passes.
        encoder: a loaded one.
        flag: what was asked for, to begin the error with.

    Raises:
        UserError: if something else lies below the encoder.
    """
    before, now = checkpoint.get("origin") or {}, recorded_origin(encoder)
    expected = before.get("fingerprint")
    if expected is None or now["fingerprint"] is None or expected == now["fingerprint"]:
        return
    place = f"--encoder.model_name {before['model_name']}"
    if before.get("revision"):
        place += f" --encoder.revision {before['revision']}"
    raise UserError(
        f"{flag}: the checkpoint was trained on {before['model_name']} with the fingerprint "
        f"{expected}, but this encoder is made from {now['model_name']} with "
        f"{now['fingerprint']}, on which its weights would be wrong. Add {place}, or, if other "
        "weights lie there now, put the former ones back."
    )
