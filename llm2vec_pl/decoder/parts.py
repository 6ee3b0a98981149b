"""The parts of an encoder: where its weights, adapters and tokenizer are, and their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm2vec_pl.decoder.gguf import Original
from llm2vec_pl.decoder.short_names import bundled_name


@dataclass(frozen=True)
class Source:
    """The parts of an encoder.

    Args:
        base: folder or hub name of full weights; of a GGUF, the folder it was unpacked into.
        revision: of the base; its commit, if known.
        adapters: folders of adapters, in the order of merging. Those from the hub are in its cache.
        tokenizer: folder or hub name of the tokenizer: what the user named, unless that is an
            adapter without one.
        folder: the folder of an earlier stage, if the user named one.
        tokenizer_revision: of the tokenizer; its commit, if known.
        trained_on: (adapter, fingerprint of the base that it was trained on) for each adapter that
            records it.
        named: folder or hub name that the user gave, and its revision; the tokenizer's if None.
        original: the GGUF that the base was unpacked from, if it was.
    """

    base: str
    revision: str | None
    adapters: tuple[str, ...]
    tokenizer: str
    folder: Path | None = None
    tokenizer_revision: str | None = None
    trained_on: tuple[tuple[str, str], ...] = ()
    named: tuple[str, str | None] | None = None
    original: Original | None = None

    @property
    def base_name(self) -> str:
        """The base as a user would write it."""
        return self.original.name if self.original else _shown(self.base)

    @property
    def recorded_base(self) -> str:
        """The base as an adapter's configuration has it: a folder, a hub name or a GGUF."""
        return self.original.name if self.original else self.base

    @property
    def base_file(self) -> dict[str, str] | None:
        """The name and the SHA-256 of the base's GGUF, for the record; None for other weights."""
        if self.original is None:
            return None
        return {"name": self.original.file, "sha256": self.original.sha256}

    @property
    def name(self) -> str:
        """What the user named, as they would write it: a run's folder in full, not its recipe's."""
        if self.original and not self.named:
            return self.original.name
        return _shown(self.named[0] if self.named else self.tokenizer)

    @property
    def name_revision(self) -> str | None:
        """The revision of what the user named; its commit, if known."""
        return self.named[1] if self.named else self.tokenizer_revision


def _shown(name: str) -> str:
    return bundled_name(name) or name
