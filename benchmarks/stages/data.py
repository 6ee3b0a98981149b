"""The batches that both sides train on, and the held-out ones, in files."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.texts import blocks
from llm2vec_pl.data import PythonDocs, PythonDocsSentences, Wikipedia, WikipediaSentences
from llm2vec_pl.data.files import Split, problem_of, read_records
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives import MNTP


class Size(NamedTuple):
    """How much data a stage takes.

    Args:
        steps: batches to train on.
        batch: blocks, sentences or queries in a batch.
        held_out: held-out batches.
    """

    steps: int
    batch: int
    held_out: int


def write_blocks(
    folder: Path, encoder: Encoder, path: str | None, size: Size, share: float
) -> dict[str, str]:
    """Blocks of token ids for MNTP, and held-out ones with a share of their tokens hidden.

    Args:
        folder: where to write.
        encoder: gives the tokenizer and the length of a block.
        path: a text data set for `Wikipedia`; Python's documentation if None.
        size: how much to write.
        share: the share of the held-out tokens to hide.

    Returns:
        The files, as a job has them.
    """
    source = Wikipedia(path=path) if path else PythonDocs()
    length = encoder.tokenize.max_length

    def batches(split: Split, count: int) -> list[dict[str, torch.Tensor]]:
        rows = blocks(encoder.tokenizer, count * size.batch, length, source.texts(split))
        ids = torch.tensor(rows).split(size.batch)
        return [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids]

    hide = MNTP(encoder, mask_probability=share).masked
    generator = torch.Generator().manual_seed(0)
    held_out = [hide(batch, generator) for batch in batches("validation", size.held_out)]
    files = {"batches": folder / "batches.pt", "held_out": folder / "held_out.pt"}
    torch.save(batches("train", size.steps), files["batches"])
    torch.save(held_out, files["held_out"])
    return {name: str(file) for name, file in files.items()}


def write_sentences(folder: Path, path: str | None, size: Size) -> dict[str, str]:
    """Sentences, each its own positive; the arguments are those of `write_blocks`.

    Args:
        folder: where to write.
        path: a text data set with a sentence a row; sentences of the documentation if None.
        size: how much to write.
    """
    source = WikipediaSentences(path=path) if path else PythonDocsSentences()
    count = size.steps + size.held_out
    read = itertools.islice(source.sentences("train"), 4 * count * size.batch)
    parts = _whole(_shuffled(dict.fromkeys(read)), size.batch, count)
    batches = [{"queries": part, "positives": part, "negatives": []} for part in parts]
    return _written(folder, batches[size.held_out :], batches[: size.held_out])


def write_pairs(folder: Path, paths: Sequence[str], size: Size) -> dict[str, str]:
    """Queries with positives and, if all rows of a file have them, hard negatives.

    A batch comes from one file, and the files take turns. No text comes twice: ours would leave it
    out of the loss as a false negative, the reference would not.

    Args:
        folder: where to write.
        paths: files with `query`, `positive` and `negative`; the documentation if there is none.
        size: how much to write.
    """
    named: Sequence[str | None] = paths or [None]
    tasks = [_shuffled(_unlike(_rows(path))) for path in named]
    needed = -(-(size.steps + size.held_out) // len(tasks))
    by_task = [_whole(rows, size.batch, needed) for rows in tasks]
    batches = [_as_texts(part) for turn in zip(*by_task, strict=True) for part in turn]
    return _written(folder, batches[size.held_out :][: size.steps], batches[: size.held_out])


def _rows(path: str | None) -> Iterator[tuple[str, str, str]]:
    """The texts of a file, or the documentation's if there is none."""
    if path is None:
        yield from ((pair.query, pair.positive, "") for pair in PythonDocs().pairs("train"))
        return
    for row in read_records(Path(path), ["query", "positive"]):
        value: dict[str, Any] = row.value if isinstance(row.value, dict) else {}
        cells: list[Any] = [value.get("query"), value.get("positive"), value.get("negative") or ""]
        texts = [cell[0] if isinstance(cell, list) and cell else cell for cell in cells]
        if problem := problem_of(texts[0]) or problem_of(texts[1]):
            raise UserError(f"{row.place}: expected two texts, but got {problem}.")
        yield str(texts[0]), str(texts[1]), str(texts[2])


def _unlike(rows: Iterable[tuple[str, str, str]]) -> Iterator[tuple[str, str, str]]:
    """The rows of which no text came before."""
    seen: set[str] = set()
    for row in rows:
        texts = {text for text in row if text}
        if not texts & seen:
            seen |= texts
            yield row


def _shuffled(rows: Iterable[Any]) -> list[Any]:
    """The rows in an order that is the same each time: neighbours are often alike."""
    rows = list(rows)
    random.Random(0).shuffle(rows)
    return rows


def _as_texts(rows: Sequence[tuple[str, str, str]]) -> dict[str, list[str]]:
    queries, positives, negatives = (list(column) for column in zip(*rows, strict=True))
    return {
        "queries": queries,
        "positives": positives,
        "negatives": negatives if all(negatives) else [],
    }


def _whole(rows: Sequence[Any], size: int, count: int) -> list[Any]:
    if len(rows) < size * count:
        raise UserError(
            f"{count:,} batches of {size:,} are needed, but the data has {len(rows):,} different "
            "rows. Give more data, or ask for fewer steps."
        )
    return [rows[start : start + size] for start in range(0, size * count, size)]


def _written(folder: Path, batches: Any, held_out: Any) -> dict[str, str]:
    files = {"batches": folder / "batches.json", "held_out": folder / "held_out.json"}
    files["batches"].write_text(json.dumps(batches))
    files["held_out"].write_text(json.dumps(held_out))
    return {name: str(file) for name, file in files.items()}
