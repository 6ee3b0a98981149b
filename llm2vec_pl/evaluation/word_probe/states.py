"""The states of words of a frozen model on disk: computed once, mapped into memory."""

from __future__ import annotations

import hashlib
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from llm2vec_pl.encoder import (
    TokenBatch,
    WordTokens,
    batches_by_length,
    pad_token,
    pad_words,
    word_states,
)
from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.word_probe.frozen import FrozenModel
from llm2vec_pl.files import alone, cache_root, explained_if_full, fingerprint, unfinished

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOKENS_AT_ONCE = 2048
"""Tokens that go through the model at once, padding included."""

LEFT_FREE = 5 * 2**30
"""Bytes that the states leave free on their disk."""

LARGEST = float(np.finfo(np.float16).max)

VERSION = 2  # of the files


@dataclass(frozen=True)
class KeptStates:
    """The states of all W words of S sentences after one layer.

    Args:
        states: (W, shifts, D), float16, in the order of the sentences.
        starts: the word with which each sentence begins, and W, (S + 1,).
    """

    states: NDArray[np.float16]
    starts: NDArray[np.int64]

    def of(self, sentences: Sequence[int]) -> Tensor:
        """The states of the words of some sentences, (shifts, words, D), in float32."""
        spans = [self.states[self.starts[i] : self.starts[i + 1]] for i in sentences]
        return torch.from_numpy(np.concatenate(spans)).float().transpose(0, 1)


def kept_states(
    model: FrozenModel,
    sentences: Sequence[WordTokens],
    layers: Sequence[int],
    what: str = "hidden states",
) -> dict[int, KeptStates]:
    """The states of words after some layers, from the cache as far as they are there.

    What is missing is computed in one pass for all layers and written to
    `CACHE/word-states-FINGERPRINT/layer-N.npy`. A file appears whole or not at all. The
    fingerprint covers the model's files and settings and the tokens of each word.

    Args:
        model: computes them.
        sentences: the tokens of S sentences.
        layers: from 0, the embeddings, to the number of the last layer.
        what: is computed, for the bar that counts its tokens.

    Returns:
        Those of each layer, for each of the model's shifts. States beyond the range of float16 are
        cut to it.

    Raises:
        UserError: if the disk has no room.
    """
    recipe = {"version": VERSION, "model": model.key, "tokens": _digest(sentences)}
    folder = cache_root() / f"word-states-{fingerprint(recipe)}"
    with alone(folder):
        missing = [layer for layer in layers if not _file(folder, layer).is_file()]
        if missing:
            _compute(model, sentences, missing, folder, what)
    starts = _starts(sentences)
    return {
        layer: KeptStates(np.load(_file(folder, layer), mmap_mode="r"), starts) for layer in layers
    }


def _file(folder: Path, layer: int) -> Path:
    return folder / f"layer-{layer}.npy"


def _digest(rows: Sequence[WordTokens]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(np.asarray([len(row.ids), *row.ids, *row.words], dtype=np.int64).tobytes())
    return digest.hexdigest()


def _starts(rows: Sequence[WordTokens]) -> NDArray[np.int64]:
    """Where the words of each sentence begin; words without a token have no state."""
    words = (len({word for word in row.words if word >= 0}) for row in rows)
    return np.cumsum([0, *words], dtype=np.int64)


def _compute(
    model: FrozenModel, rows: Sequence[WordTokens], layers: Sequence[int], folder: Path, what: str
) -> None:
    """Writes a file for each layer, all in one pass."""
    starts, tokens = _starts(rows), sum(len(row.ids) for row in rows)
    folder.mkdir(exist_ok=True)
    pause = 1.0 if sys.stderr.isatty() else 60.0  # between two lines of a log
    bar = tqdm(total=tokens, desc=what, unit=" tokens", unit_scale=True, mininterval=pause)
    with explained_if_full(folder.parent), bar, ExitStack() as opened:
        places = {i: opened.enter_context(unfinished(_file(folder, i))) for i in layers}
        files: dict[int, _Rows] = {}
        for some in _batches(rows):
            states = _states(model, [rows[i] for i in some], layers)
            if not files:
                shape = (int(starts[-1]), *next(iter(states.values())).shape[1:])
                _require_room(folder, shape, len(layers))
                files = {i: _Rows(places[i], shape) for i in layers}
                for file in files.values():
                    opened.callback(file.close)  # before the file is put in its place
            sizes = [int(starts[i + 1] - starts[i]) for i in some]
            for layer, file in files.items():
                for i, part in zip(some, states[layer].split(sizes), strict=True):
                    file.write(int(starts[i]), part)
            bar.update(sum(len(rows[i].ids) for i in some))


class _Rows:
    """An array in a file, whose rows are written in any order.

    Not through a memory map, with which a full disk would kill the process.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self._offset = np.lib.format.open_memmap(path, "w+", np.float16, shape).offset
        self._row = 2 * math.prod(shape[1:])  # bytes
        self._file = path.open("r+b")
        self.close = self._file.close

    def write(self, start: int, rows: Tensor) -> None:
        """Writes rows, the first one as number `start`."""
        self._file.seek(self._offset + start * self._row)
        self._file.write(rows.numpy().tobytes())


def _batches(rows: Sequence[WordTokens]) -> Iterator[list[int]]:
    """Sentences of like length together, the longest first: a lack of memory shows at once."""
    lengths = [len(row.ids) for row in rows]
    return batches_by_length(lengths, len(rows), TOKENS_AT_ONCE, padded=True)


@torch.no_grad()
def _states(
    model: FrozenModel, rows: Sequence[WordTokens], layers: Sequence[int]
) -> dict[int, Tensor]:
    """The states of a batch's words after some layers, (W, shifts, D), float16, on the CPU."""
    tokens = pad_words(rows, pad_token(model.tokenize))
    index: Tensor = tokens["word_index"]
    batch: TokenBatch = {key: tokens[key] for key in ("input_ids", "attention_mask")}
    found = model.states(batch)
    if len(found) != model.layers + 1:
        raise UserError(
            f"{model.name} should give the states of {model.layers} layers and of its embeddings, "
            f"but gave {len(found)}. Name another model."
        )
    index = index.to(found[0].device)
    words = {
        i: torch.stack([word_states(found[i], index, shift) for shift in model.shifts], dim=1)
        for i in layers
    }
    return {i: each.clamp(-LARGEST, LARGEST).half().cpu() for i, each in words.items()}


def _require_room(folder: Path, shape: tuple[int, ...], layers: int) -> None:
    """Says what the states take before they take it, and refuses what would fill the disk."""
    needed = 2 * math.prod(shape) * layers
    free = shutil.disk_usage(folder).free
    what = f"The states of {shape[0]:,} words after {layers} {'layers' if layers > 1 else 'layer'}"
    tqdm.write(f"{what}: {_size(needed)} in {folder}")
    if needed > free - LEFT_FREE:
        raise UserError(
            f"{what} take {_size(needed)}, but the disk of {folder.parent} has {_size(free)} left, "
            f"of which {_size(LEFT_FREE)} stay free. Ask for fewer layers, free some space, or set "
            "the environment variable LLM2VEC_PL_CACHE to a folder on another disk."
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
