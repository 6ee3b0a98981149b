"""What an encoder is made from, and refusing to put an adapter on anything else."""

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
        source: of the weights, which are fetched if the hub's cache lacks them.
        adapters: folders, in the order of merging.
    """
    return Origin(_of_base(source), tuple(adapter_fingerprint(folder) for folder in adapters))


def _of_base(source: Source) -> str:
    if source.original:  # the file itself, which another version may unpack a little differently
        return source.original.fingerprint
    files: Sequence[str | Path] = weight_files(source) or sorted(
        Path(source.base).glob("*.safetensors")
    )
    return weights_fingerprint(files)


def pinned_flags(encoder: Encoder) -> dict[str, Any]:
    """The `--encoder` flags that name exactly what this encoder is made from.

    `runs/mntp` may be another run later, and a branch on the hub another commit.

    Args:
        encoder: loaded or not.
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
    """Checks that adapters are put on the weights that they were trained on.

    Args:
        encoder: one that is being loaded.
        origin: what it is loaded from; None for random weights.

    Raises:
        UserError: if the weights or earlier adapters are different ones.
    """
    if origin is None:
        return
    for adapter, expected in encoder.trained_on:
        if expected != origin.base:
            raise UserError(
                f"The adapter {adapter} was trained on weights with the fingerprint {expected}, "
                f"but {encoder.source.base_name} now has {origin.base}: its embeddings would be "
                'wrong. Put the former weights back, or write their place as "base_model" in the '
                "adapter's llm2vec_config.json. To use it on these weights anyway, delete "
                '"base_fingerprint" there.'
            )
    for i, folder in enumerate(encoder.adapters):
        missing = set(_earlier_fingerprints(folder)) - set(origin.adapters[:i])
        if missing:
            raise UserError(
                f"The adapter {display_name(folder)} was trained on top of earlier ones, but "
                f"{len(missing)} of them are missing or have changed. Give it as `model_name`, "
                "which brings them along, not in `adapters`."
            )
    if encoder.fingerprint not in (None, str(origin)):
        raise UserError(
            f"`fingerprint={encoder.fingerprint!r}` is not that of {encoder.source.name}, which "
            f"has {origin}: its weights or adapters have changed. Name the former weights and "
            "adapters, or set `fingerprint=None` to use these."
        )


def _earlier_fingerprints(folder: str) -> list[str]:
    """Fingerprints of the adapters that one was trained on top of, as far as known."""
    recorded = adapter_settings(folder).get("earlier_adapters")
    if recorded is not None:
        return [earlier["fingerprint"] for earlier in recorded]
    return [adapter_fingerprint(path) for path in (Path(folder) / EARLIER).glob("*")]


def recorded_origin(encoder: Encoder) -> dict[str, Any]:
    """What a checkpoint records about the weights that its own were trained on."""
    return {
        "model_name": encoder.source.name,
        "revision": encoder.source.name_revision,
        "fingerprint": str(encoder.origin) if encoder.origin else None,
    }


def require_same_origin(checkpoint: dict[str, Any], encoder: Encoder, flag: str) -> None:
    """Checks that a checkpoint is opened on the weights that it was trained on.

    Args:
        checkpoint: as Lightning reads it; one from before this was recorded passes.
        encoder: a loaded one.
        flag: what was asked for, to begin the error with.

    Raises:
        UserError: if the encoder is made from other weights.
    """
    before, now = checkpoint.get("origin") or {}, recorded_origin(encoder)
    expected = before.get("fingerprint")
    if expected is None or now["fingerprint"] is None or expected == now["fingerprint"]:
        return
    place = f"`model_name={before['model_name']!r}`"
    if before.get("revision"):
        place += f" and `revision={before['revision']!r}`"
    raise UserError(
        f"{flag}: the checkpoint was trained on {before['model_name']} with the fingerprint "
        f"{expected}, but this encoder is made from {now['model_name']} with "
        f"{now['fingerprint']}, on which its weights would be wrong. Set {place}; if the weights "
        "there have changed, put the former ones back."
    )
