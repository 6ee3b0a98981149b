"""What runs on the machines of a Ray cluster."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.use.bulk.documents import Chunk, Documents
from llm2vec_pl.use.bulk.embedding import Embedding, embed
from llm2vec_pl.use.bulk.parts import PartFolder, require_same
from llm2vec_pl.use.bulk.settings import encoder_settings

Batch = dict[str, list[Any]]

END = -1
"""In the place of a chunk's number: the corpus has been read to its end."""


def read(batch: Any, documents: Documents, there: set[int], readers: int) -> Iterator[Batch]:
    """Every R-th chunk that has no file, and then the number of the corpus's rows."""
    (reader,) = batch["item"]
    for chunk in documents.chunks(lambda k: k % readers == reader and k not in there):
        yield {"number": [chunk.number], "rows": [0], "chunk": [pickle.dumps(chunk)]}
    yield {"number": [END], "rows": [documents.rows], "chunk": [b""]}


class Writer:
    """An actor: opens the encoder once, and writes the file of each chunk that it is given."""

    def __init__(
        self,
        open_encoder: Callable[[], Encoder],
        folder: PartFolder,
        how: Embedding,
        keep: tuple[str, ...],
    ) -> None:
        self.encoder = open_encoder()
        self.folder, self.how, self.keep = folder, how, keep
        own = encoder_settings(self.encoder)
        require_same({name: folder.settings[name] for name in own}, own, folder.folder)
        if torch.cuda.is_available():
            self.encoder.to("cuda")

    def __call__(self, batch: Any) -> Batch:
        """Writes the file of a chunk; a batch is one."""
        (number,), (rows,) = batch["number"], batch["rows"]
        if number != END:
            chunk: Chunk = pickle.loads(batch["chunk"][0])
            rows = len(chunk.documents)
            # An actor may have died after it had written the file.
            if not self.folder.has(chunk.number):
                texts = [document.text for document in chunk.documents]
                embeddings = embed(self.encoder, texts, self.how, lambda count: None)
                self.folder.write(chunk, embeddings, self.keep)
        return {"number": [number], "rows": [rows]}
