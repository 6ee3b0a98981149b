"""Embeddings that are kept on disk between tasks and runs, by model, instruction and text."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm2vec_pl.encoder import EmbeddingCache, Encoder, EncoderPool, known_device, text_key
from llm2vec_pl.files import cached_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

AT_ONCE = 8192
"""Texts that are embedded before what is new is kept: all that a killed run has to repeat."""

LEFT_FREE = 5 * 2**30
"""Bytes that the cache leaves free on its disk. A large corpus fills a disk otherwise."""


class Embeddings:
    """Embeds texts, each once under one instruction.

    Args:
        encoder: embeds them.
        recipe: identifies the encoder, with all that an embedding depends on; None keeps nothing.
        devices: where to embed; several have a process each, from the first text to `close`.

    Raises:
        UserError: if a device is unknown.
    """

    def __init__(
        self,
        encoder: Encoder,
        recipe: dict[str, Any] | None = None,
        devices: Sequence[str] = (),
    ) -> None:
        self.encoder = encoder
        self._pool: EncoderPool | None = None
        self._devices = [str(known_device(device)) for device in devices]
        if len(self._devices) == 1:
            encoder.to(self._devices[0])
        self._cache = None
        if recipe is not None:
            folder = cached_folder("mteb", recipe, _begin)
            self._cache = EmbeddingCache(folder, encoder.embedding_size)

    def __call__(
        self, texts: Sequence[str], instruction: str = "", batch_size: int = 32
    ) -> NDArray[np.float32]:
        """The embeddings of texts, (N, D), in float32, not normalised.

        Args:
            texts: N texts; equal ones are embedded once.
            instruction: written directly before each text, and not pooled.
            batch_size: most texts that go through the decoder at once.
        """
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        vectors = np.empty((len(rows), self.encoder.embedding_size), dtype=np.float32)
        distinct = list(rows)
        for start in range(0, len(distinct), AT_ONCE):
            some = distinct[start : start + AT_ONCE]
            vectors[start : start + len(some)] = self._some(some, instruction, batch_size)
        return vectors[[rows[text] for text in texts]]

    def close(self) -> None:
        """Ends the processes of several devices; they start again if they are needed."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _some(self, texts: list[str], instruction: str, batch_size: int) -> NDArray[np.float32]:
        keys = [text_key(f"{instruction}\0{text}") for text in texts]
        found = self._cache.get(keys) if self._cache else {}
        missing = [row for row, key in enumerate(keys) if key not in found]
        vectors = np.empty((len(texts), self.encoder.embedding_size), dtype=np.float32)
        for row, key in enumerate(keys):
            if key in found:
                vectors[row] = found[key]
        if missing:
            if len(self._devices) > 1 and self._pool is None:
                self._pool = self.encoder.start_pool(self._devices)
            vectors[missing] = self.encoder.encode(
                [texts[row] for row in missing], instruction, batch_size, device=self._pool
            ).numpy()
            self._keep({keys[row]: vectors[row] for row in missing})
        return vectors

    def _keep(self, vectors: dict[bytes, Any]) -> None:
        if self._cache is None:
            return
        folder: Path = self._cache.folder
        if shutil.disk_usage(folder).free < LEFT_FREE:
            warnings.warn(
                f"Less than {LEFT_FREE / 2**30:.0f} GiB are free in {folder}: further embeddings "
                "are not kept. To keep them, set LLM2VEC_PL_CACHE to a folder on another disk.",
                stacklevel=3,
            )
            self._cache = None
            return
        self._cache.put(vectors)


def _begin(folder: Path) -> None:
    """A new cache has nothing but its recipe, which `cached_folder` writes."""
