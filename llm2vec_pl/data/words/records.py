"""Sentences from records: JSON lines, Parquet, and data sets of Hugging Face."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm2vec_pl.data.files import RECORD_READERS, Row, column_names, extension
from llm2vec_pl.data.words.sentence import Layout, Sentence
from llm2vec_pl.errors import UserError

WORDS = ("tokens", "words", "form")
TAGS = {
    "pos": ("upos", "pos_tags", "pos", "upos_tags", "xpos", "tags", "labels"),
    "chunk": ("chunk_tags", "chunks", "chunk", "tags", "labels"),
    "ner": ("ner_tags", "ner", "tags", "labels"),
}
RECORDS = (".jsonl", ".ndjson", ".json", ".parquet")


def read_file(path: Path, layout: Layout) -> Iterator[Sentence]:
    """Sentences of a jsonl or Parquet file, a row each: a list of words and a list of tags.

    Numbers are read by the names that a Parquet file of Hugging Face's `datasets` holds, or by the
    layout's.

    Raises:
        UserError: with file and line, if a row has no such lists of one length.
    """
    known = column_names(path)  # None in JSON lines, where the first record says it
    if known is None:
        first = next(iter(RECORD_READERS[extension(path)](path, [])), None)
        known = list(first.value) if first and isinstance(first.value, dict) else []
    word, tag = columns_of(str(path), known, layout)
    names = _parquet_names(path, tag) if extension(path) == ".parquet" else ()
    rows = RECORD_READERS[extension(path)](path, [word, tag])
    return sentences(rows, word, tag, names or layout.names)


def columns_of(where: str, known: Sequence[str], layout: Layout) -> tuple[str, str]:
    """The columns of the words and of the tags.

    Raises:
        UserError: if there is none, listing those that there are.
    """
    return (
        _chosen(where, known, layout.word_column, WORDS, "word_column", "words"),
        _chosen(where, known, layout.column, TAGS[layout.task], "column", f"{layout.task} tags"),
    )


def sentences(
    rows: Iterable[Row], word: str, tag: str, names: Sequence[str] = ()
) -> Iterator[Sentence]:
    """The sentences of records, each checked."""
    for row in rows:
        if not isinstance(row.value, Mapping):
            raise UserError(f"{row.place}: expected words and tags, but got {row.value}.")
        words = _strings(row, word, row.value.get(word), ())
        tags = _strings(row, tag, row.value.get(tag), names)
        if len(words) != len(tags):
            raise UserError(
                f"{row.place}: expected a tag for each word, but got {len(words)} words in "
                f"{word!r} and {len(tags)} tags in {tag!r}. Correct the row."
            )
        if words:
            yield Sentence(words, tags, row.place)


def names_of(feature: Any) -> tuple[str, ...]:
    """The names of a column of class labels of `datasets`; none for other columns."""
    inner = getattr(feature, "feature", feature)
    return tuple(getattr(inner, "names", None) or ())


def _parquet_names(path: Path, column: str) -> tuple[str, ...]:
    import pyarrow.parquet as pq
    from datasets import Features

    schema = pq.read_schema(path)
    if b"huggingface" not in (schema.metadata or {}):
        return ()
    return names_of(Features.from_arrow_schema(schema).get(column))


def _chosen(
    where: str,
    known: Sequence[str],
    given: str | int | None,
    usual: Sequence[str],
    argument: str,
    what: str,
) -> str:
    found = next(
        (name for name in ([str(given)] if given is not None else usual) if name in known), None
    )
    if found is None:
        looked = f"no column {str(given)!r}" if given is not None else f"no column of {what}"
        raise UserError(
            f"{where} has {looked}; its columns are: {', '.join(known) or 'none'}. "
            f"Set `{argument}`."
        )
    return found


def _strings(row: Row, column: str, value: Any, names: Sequence[str]) -> list[str]:
    if not isinstance(value, (list, tuple)):
        raise UserError(
            f"{row.place}: expected a list in {column!r}, but got {str(value)[:60]!r}. "
            "Correct the row."
        )
    return [_string(row, column, each, names) for each in value]


def _string(row: Row, column: str, value: Any, names: Sequence[str]) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value < len(names):
            return str(names[value])
        known = f"`names` has {len(names)}" if names else "nothing says which tags they are"
        raise UserError(
            f"{row.place}: {column!r} holds the number {value}, but {known}. Set `names` to the "
            "list of tags in the order of their numbers."
        )
    raise UserError(
        f"{row.place}: expected strings in {column!r}, but got {value!r}. Correct the row."
    )
