"""What an exported encoder was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm2vec_pl.decoder import LINEAGE, display_name
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.files import read_json


def lineage_of(encoder: Encoder) -> dict[str, Any]:
    """The lineage in an encoder's folder: base, adapters, and the stages of its training.

    An encoder from elsewhere has no stages.
    """
    source = encoder.source
    recorded = read_json(source.folder / LINEAGE) if source.folder else {}
    base: dict[str, Any] = {
        "base_model": source.base_name,
        "revision": source.revision,
        "base_file": source.base_file,
        "base_fingerprint": encoder.origin.base if encoder.origin else None,
        "stages": [],
    }
    adapters = [public_name(display_name(adapter), parts=3) for adapter in encoder.adapters]
    return {**base, **recorded, "adapters": adapters}


def public_name(name: str, parts: int = 1) -> str:
    """A name to publish: of a folder on this machine only its last parts.

    >>> public_name("/home/me/runs/mntp/version_0/encoder", parts=3), public_name("org/name")
    ('mntp/version_0/encoder', 'org/name')
    """
    path = Path(name)
    return "/".join(path.parts[-parts:]) if path.is_absolute() else name
