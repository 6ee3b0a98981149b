"""Texts -> tokens -> one stream -> blocks of `max_length` tokens, kept on disk as Arrow."""

from __future__ import annotations

import bisect
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from llm2vec_pl.encoder import well_formed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Tokens = NDArray[np.unsignedinteger[Any]]

_TEXTS_PER_CALL = 1000
_CHARACTERS_PER_CALL = 4_000_000  # bounds the memory of a call where texts are whole books
_TOKENS_PER_RECORD_BATCH = 1 << 20


def tokenise(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerFast,
    num_proc: int = 1,
    texts_per_call: int = _TEXTS_PER_CALL,
    control_tokens: bool = False,
) -> Iterator[Tokens]:
    """The tokens of all texts, in order, as one stream cut wherever a tokenizer call ended.

    Each text gets the special tokens that its tokenizer puts around it. A control token that is
    only spelled out in a text, such as `<mask>` in documentation, is text.

    Args:
        texts: read once, and no further ahead than a few calls.
        tokenizer: a fast tokenizer.
        num_proc: number of processes; 1 tokenises in this one, where the tokenizer may use threads.
        texts_per_call: texts that the tokenizer gets at once.
        control_tokens: read control tokens that are spelled out in a text as control tokens.
    """
    calls = _calls(texts, texts_per_call)
    if num_proc <= 1:
        yield from (tokens_and_lengths(tokenizer, call, control_tokens)[0] for call in calls)
        return
    with multiprocessing.Pool(num_proc, _give_tokenizer, (tokenizer, control_tokens)) as pool:
        # `imap` alone would read all the texts into memory at once.
        while ahead := list(islice(calls, 4 * num_proc)):
            yield from pool.imap(_stream_in_worker, ahead)


def _calls(texts: Iterable[str], texts_per_call: int) -> Iterator[list[str]]:
    call: list[str] = []
    characters = 0
    for text in texts:
        call.append(text)
        characters += len(text)
        if len(call) == texts_per_call or characters >= _CHARACTERS_PER_CALL:
            yield call
            call, characters = [], 0
    if call:
        yield call


def tokens_and_lengths(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], control_tokens: bool = False
) -> tuple[Tokens, NDArray[np.int64]]:
    """The tokens of texts as one stream, and the number of tokens of each, (texts,)."""
    options: dict[str, Any] = {
        "add_special_tokens": True,
        "split_special_tokens": not control_tokens,
        "padding": False,
        "truncation": False,
        "return_attention_mask": False,
        "return_token_type_ids": False,
        "verbose": False,
    }
    try:
        tokens = tokenizer(texts, **options)["input_ids"]
    except (TypeError, UnicodeEncodeError):
        tokens = tokenizer([well_formed(text) for text in texts], **options)["input_ids"]
    dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32
    stream: Tokens = np.fromiter((token for text in tokens for token in text), dtype)
    return stream, np.array([len(text) for text in tokens], np.int64)


_worker_tokenizer: PreTrainedTokenizerFast
_worker_control_tokens: bool


def _give_tokenizer(tokenizer: PreTrainedTokenizerFast, control_tokens: bool) -> None:
    global _worker_tokenizer, _worker_control_tokens
    _worker_control_tokens = control_tokens
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the processes are the parallelism
    _worker_tokenizer = tokenizer


def _stream_in_worker(texts: list[str]) -> Tokens:
    return tokens_and_lengths(_worker_tokenizer, texts, _worker_control_tokens)[0]


def pack(stream: Iterable[Tokens], max_length: int) -> Iterator[Tokens]:
    """Blocks of exactly `max_length` tokens, without gaps; the last block holds the rest.

    Args:
        stream: arrays of tokens of any length; they are joined.
        max_length: tokens per block.
    """
    rest: Tokens = np.empty(0, np.uint16)
    for tokens in stream:
        tokens = np.concatenate([rest, tokens]) if len(rest) else tokens
        full = len(tokens) - len(tokens) % max_length
        yield from tokens[:full].reshape(-1, max_length)  # (blocks, L)
        rest = tokens[full:]
    if len(rest):
        yield rest


def write_blocks(blocks: Iterable[Tokens], path: Path) -> None:
    """Writes blocks as an Arrow file with one list column, `input_ids`, in 2 or 4 bytes per token.

    `datasets.Dataset.from_file` opens it.
    """
    import pyarrow as pa

    blocks = iter(blocks)
    first = next(blocks, np.empty(0, np.uint16))
    schema = pa.schema([("input_ids", pa.list_(pa.from_numpy_dtype(first.dtype)))])
    per_batch = max(1, _TOKENS_PER_RECORD_BATCH // max(1, len(first)))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as file:
        batch = [first] if len(first) else []
        while batch := batch + list(islice(blocks, per_batch - len(batch))):
            offsets = np.cumsum([0, *map(len, batch)], dtype=np.int32)
            column = pa.ListArray.from_arrays(offsets, np.concatenate(batch))
            file.write_batch(pa.record_batch([column], schema=schema))
            batch = []


class Blocks(Dataset["Tokens"]):
    """The blocks of one Arrow file, memory-mapped; an item is a view into the file.

    Args:
        path: a file written by `write_blocks`.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path = path
        batches = pa.ipc.open_stream(pa.memory_map(str(path)))
        columns = [batch.column("input_ids") for batch in batches]
        self._tokens = [column.values.to_numpy() for column in columns]
        self._offsets = [column.offsets.to_numpy() for column in columns]
        self._starts = np.cumsum([0, *map(len, columns)]).tolist()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Tokens:
        if not -len(self) <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        index %= len(self)
        batch = bisect.bisect_right(self._starts, index) - 1
        start, end = self._offsets[batch][index - self._starts[batch] :][:2]
        block: Tokens = self._tokens[batch][start:end]  # (L,)
        return block

    @property
    def num_tokens(self) -> int:
        """Tokens in all blocks."""
        return sum(map(len, self._tokens))

    def __reduce__(self) -> tuple[Any, ...]:
        return Blocks, (self.path,)  # a loader's worker maps the file itself


def collate_blocks(blocks: list[Tokens], pad_token_id: int) -> dict[str, Tensor]:
    """A batch of blocks, padded on the right: `input_ids` and `attention_mask`, both (B, L)."""
    longest = max(map(len, blocks))
    input_ids = np.full((len(blocks), longest), pad_token_id, np.int64)  # (B, L)
    attention_mask = np.zeros((len(blocks), longest), np.int64)  # (B, L)
    for i, block in enumerate(blocks):
        input_ids[i, : len(block)] = block
        attention_mask[i, : len(block)] = 1
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(attention_mask),
    }
