"""Makes an index, or brings one up to date: only passages with new texts are embedded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm2vec_pl.decoder import encoder_contents
from llm2vec_pl.encoder import text_key
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import (
    alone,
    before,
    cache_root,
    explained_if_full,
    fingerprint,
    remove,
    unfinished,
    write_json,
)
from llm2vec_pl.training import still_at
from llm2vec_pl.use.search.embedded_corpus import EmbeddedCorpus
from llm2vec_pl.use.search.index import (
    EMBEDDINGS,
    KEYS,
    SETTINGS,
    Index,
    PassageFile,
    write_passages,
)
from llm2vec_pl.use.search.passages import split
from llm2vec_pl.use.search.store import KEY, EmbeddingLog, Known

if TYPE_CHECKING:
    from llm2vec_pl.encoder import Encoder
    from llm2vec_pl.use.search.document import Corpus
    from llm2vec_pl.use.search.store import Keys

    Report = Callable[[str], object]

PASSAGE_TOKENS = 128
"""Tokens of a passage at most."""

_FORMAT = 1  # of an index; raise it when passages or files change
_TITLE_TOKENS = 32  # kept free for a title
_LEAST_TOKENS = 16
_SECONDS = 5.0  # between two writes of what has been embedded
_ROWS_AT_ONCE = 8192
_BATCH_SIZE = 128


class Indexer:
    """Keeps the index of a corpus in the cache, as one encoder embeds it.

    Args:
        encoder: embeds the passages, with its prompt for documents.
        name: its `model_name`.
        corpus: what is searched.
        passage_tokens: tokens of a passage at most, without its title.
        report: is called with a line on what is done.

    Raises:
        UserError: if so few tokens make no passage.
    """

    def __init__(
        self,
        encoder: Encoder,
        name: str,
        corpus: Corpus | EmbeddedCorpus,
        passage_tokens: int = PASSAGE_TOKENS,
        report: Report = print,
    ) -> None:
        if passage_tokens < _LEAST_TOKENS:
            raise UserError(
                f"`passage_tokens` is at least {_LEAST_TOKENS}, but got {passage_tokens}."
            )
        self.encoder, self.corpus, self.report = encoder, corpus, report
        prompts = encoder.tokenize.lengths(["", *encoder.prompts.values()])
        room = encoder.tokenize.max_length - _TITLE_TOKENS - max(prompts)
        self.passage_tokens = max(_LEAST_TOKENS, min(passage_tokens, room))
        recipe = {
            "format": _FORMAT,
            "encoder": encoder_contents(name),
            "dtype": encoder.dtype,
            "prompts": encoder.prompts,
            "corpus": corpus.name,
            "column": getattr(corpus, "column", None),
            "passage_tokens": self.passage_tokens,
        }
        self.folder = cache_root() / f"search-{fingerprint(recipe)}"
        size = encoder.embedding_size
        if isinstance(corpus, EmbeddedCorpus):
            corpus.require_same(encoder)
            size = corpus.size
        self.log = EmbeddingLog(self.folder, size)

    def index(self) -> Index:
        """The index of the corpus as it is now, brought up to date if it has to be.

        If this is interrupted, the embeddings that are there are kept for the next time.

        Raises:
            UserError: if the corpus has no text, or the cache cannot be written.
        """
        state = self.corpus.state()
        found = self._read()
        if found and found.state == state:
            return found
        with alone(self.folder), explained_if_full(self.folder.parent):
            self.folder.mkdir(exist_ok=True)
            self._tidy()
            found = self._read()  # another process may have been faster
            if found and found.state == state:
                return found
            self._say_why(found, state)
            return self._build(found, state)

    def _read(self) -> Index | None:
        try:
            return Index(self.folder / "index")
        except (OSError, ValueError, KeyError, IndexError):
            return None

    def _tidy(self) -> None:
        """Removes what a killed process left, or puts it back."""
        for left in self.folder.glob(".index.unfinished-*"):
            remove(left)
        old, index = before(self.folder / "index"), self.folder / "index"
        if old.exists() and not index.exists():
            old.rename(index)
        remove(old)

    def _say_why(self, found: Index | None, state: dict[str, Any]) -> None:
        if found is None:
            damaged = (self.folder / "index").exists()
            why = "its index is damaged and made again" if damaged else "no index yet"
            self.report(f"{self.corpus.name}: {why}; it is kept in {self.folder}")
            return
        old = found.state
        counts = {
            "new": len(state.keys() - old.keys()),
            "changed": sum(state[part] != old[part] for part in state.keys() & old.keys()),
            "gone": len(old.keys() - state.keys()),
        }
        changes = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
        self.report(f"{self.corpus.name} has changed ({changes}): the index is brought up to date")

    def _build(self, old: Index | None, state: dict[str, Any]) -> Index:
        start = time.monotonic()
        with unfinished(self.folder / "index") as new:
            new.mkdir()
            keys = self._write_passages(new)
            if isinstance(self.corpus, EmbeddedCorpus):
                self.report(f"{len(keys):,} passages, embedded already")
                self._copy_vectors(self.corpus, new / EMBEDDINGS, len(keys))
            else:
                older = [old.known] if old else []
                self._embed_missing(new, keys, [self.log.read(), *older])
                _write_embeddings(new / EMBEDDINGS, keys, [self.log.read(), *older])
            np.save(new / KEYS, keys.view(np.uint8))
            write_json(new / SETTINGS, {"corpus": self.corpus.name, "state": state})
        self.log.delete()
        index = Index(self.folder / "index")
        self.report(f"{len(index):,} passages are indexed, in {time.monotonic() - start:.0f} s")
        return index

    def _write_passages(self, new: Path) -> Keys:
        if isinstance(self.corpus, EmbeddedCorpus):
            passages = self.corpus.passages()
        else:
            count = self.encoder.tokenize.lengths
            passages = split(self.corpus.documents(), count, self.passage_tokens)
        written = write_passages(passages, new)
        keys = np.array([text_key(passage.embedded) for passage in written], KEY)
        for note in self.corpus.notes:
            self.report(note)
        return keys

    def _copy_vectors(self, corpus: EmbeddedCorpus, file: Path, count: int) -> None:
        written = _new_embeddings(file, count, corpus.size)
        start = 0
        for vectors in corpus.vectors():
            written[start : start + len(vectors)] = vectors
            start += len(vectors)
        written.flush()

    def _embed_missing(self, new: Path, keys: Keys, sources: list[Known]) -> None:
        _, first = np.unique(keys, return_index=True)
        rows = np.sort(first)
        for known in sources:
            rows = rows[known.rows(keys[rows]) < 0]
        there = f", {len(keys) - len(rows):,} are there" if len(rows) < len(keys) else ""
        self.report(f"{len(keys):,} passages: {len(rows):,} to embed{there}")
        texts = PassageFile(new)
        with still_at("embedding"):
            for some in _timed_chunks(rows.tolist()):
                embedded = [texts[row].embedded for row in some]
                vectors = self.encoder.encode_document(embedded, batch_size=_BATCH_SIZE)
                self.log.append(keys[some].tolist(), vectors.numpy())


def _timed_chunks(rows: list[int]) -> Iterator[list[int]]:
    """Rows in chunks that take some seconds each, with a progress bar in a terminal."""
    from tqdm import tqdm

    size, done = 64, 0
    with tqdm(total=len(rows), unit=" passages", disable=None, leave=False) as bar:
        while done < len(rows):
            begun = time.monotonic()
            yield rows[done : done + size]
            bar.update(min(size, len(rows) - done))
            done += size
            if time.monotonic() - begun < _SECONDS / 2:
                size = min(2 * size, _ROWS_AT_ONCE)


def _write_embeddings(file: Path, keys: Keys, sources: list[Known]) -> None:
    """The embedding of each key, from wherever it is known, (N, D)."""
    written = _new_embeddings(file, len(keys), sources[0].vectors.shape[1])
    for known in sources:
        rows = known.rows(keys)
        for start in range(0, len(keys), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            written[start : start + _ROWS_AT_ONCE][some >= 0] = known.vectors[some[some >= 0]]
    written.flush()


def _new_embeddings(file: Path, count: int, size: int) -> Any:
    return np.lib.format.open_memmap(file, "w+", np.float32, (count, size))
