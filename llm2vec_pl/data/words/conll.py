"""Sentences from files with a word a line: CoNLL's columns, and CoNLL-U."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from llm2vec_pl.data.files import open_text
from llm2vec_pl.data.words.sentence import Layout, Sentence
from llm2vec_pl.errors import UserError

DOCUMENT = "-DOCSTART-"
CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_BLANK = " \t\r\n"
_COMMENT = re.compile(r"#\s*[\w.:]+\s*=|#\s*(newdoc|newpar)\b")


class Line(NamedTuple):
    """The columns of a word, and the number of its line, from 1."""

    number: int
    fields: list[str]


def read_columns(path: Path, layout: Layout) -> Iterator[Sentence]:
    """Sentences of words with columns, as in CoNLL-2000 and CoNLL-2003.

    Columns are divided by tabs if the line has any, otherwise by blanks; an empty line ends a
    sentence. `-DOCSTART-` lines are left out, and so are comments: lines that begin with `#`, come
    before the first word of a sentence, and have the form `# key = value` or other columns than
    the words (`#` is also a word).

    Args:
        path: the file.
        layout: `column` is a number, from 1. By default, parts of speech are in the second, chunks
            in the third (or the last, if there are two) and entities in the last column.

    Raises:
        UserError: with file and line, if a line has another number of columns than the first.
    """
    width = _width(path)
    word = _number(path, layout.word_column, "word_column", width, 1)
    usual = {"pos": 2, "chunk": min(3, width), "ner": width}[layout.task]
    tag = _number(path, layout.column, "column", width, usual)
    for lines in _blocks(path, width):
        for number, fields in lines:
            if len(fields) != width:
                raise UserError(
                    f"{path} line {number:,}: expected {width} columns, as in the first line, but "
                    f"got {len(fields)}: {' '.join(fields)[:60]!r}. Correct the line; an empty "
                    "line ends a sentence."
                )
        yield Sentence(
            [line.fields[word - 1] for line in lines],
            [line.fields[tag - 1] for line in lines],
            f"{path} line {lines[0].number:,}",
        )


def read_conllu(path: Path, layout: Layout) -> Iterator[Sentence]:
    """Sentences of Universal Dependencies: https://universaldependencies.org/format.html.

    The lines of multiword tokens (`1-2`) and of empty nodes (`1.1`) are left out: their words have
    lines of their own, or are not in the text.

    Args:
        path: the file.
        layout: `column` is a name, such as `xpos`, or a number from 1; by default `upos`.

    Raises:
        UserError: with file and line, if a line has no ten columns.
    """
    if layout.column is None and layout.task != "pos":
        raise UserError(
            f"{path}: CoNLL-U has no column for `task={layout.task!r}`. Set `column` to one of "
            f'{", ".join(CONLLU)}, or `task="pos"`.'
        )
    names = {name: place for place, name in enumerate(CONLLU, 1)}
    word = _number(path, layout.word_column, "word_column", len(CONLLU), names["form"], names)
    tag = _number(path, layout.column, "column", len(CONLLU), names["upos"], names)
    for lines in _blocks(path, None):
        for number, fields in lines:
            if len(fields) != len(CONLLU) or not re.fullmatch(r"\d+([-.]\d+)?", fields[0]):
                raise UserError(
                    f"{path} line {number:,}: expected ten columns of CoNLL-U, divided by tabs and "
                    f"beginning with the word's number, but got {'  '.join(fields)[:60]!r}. "
                    "Correct the line."
                )
        lines = [line for line in lines if line.fields[0].isdigit()]
        if lines:
            yield Sentence(
                [line.fields[word - 1] for line in lines],
                [line.fields[tag - 1] for line in lines],
                f"{path} line {lines[0].number:,}",
            )


def _blocks(path: Path, width: int | None) -> Iterator[list[Line]]:
    """The lines of each sentence, without comments; all with `#` are comments without a width."""
    block: list[Line] = []
    with open_text(path) as file:
        for number, text in enumerate(file, 1):
            line = text.strip(_BLANK)
            fields = _fields(text)
            if not line or fields[0] == DOCUMENT:
                if block:
                    yield block
                block = []
            elif not _is_comment(line, fields, block, width):
                block.append(Line(number, _decoded(path, number, fields)))
    if block:
        yield block


def _is_comment(line: str, fields: list[str], block: list[Line], width: int | None) -> bool:
    if not line.startswith("#"):
        return False
    if width is None:
        return True
    return not block and (len(fields) != width or bool(_COMMENT.match(line)))


def _fields(text: str) -> list[str]:
    text = text.rstrip("\r\n")
    if "\t" in text:
        return text.rstrip("\t ").split("\t") if text.strip(_BLANK) else [""]
    return [field for field in text.split(" ") if field] or [""]  # \xa0 is part of a word


def _decoded(path: Path, number: int, fields: list[str]) -> list[str]:
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{path} line {number:,}: expected UTF-8, but got broken characters. Convert the file, "
            "for example with iconv -f LATIN1 -t UTF-8."
        ) from None
    return fields


def _width(path: Path) -> int:
    """How many columns the first word has."""
    with open_text(path) as file:
        for text in file:
            fields = _fields(text)
            if fields[0] and fields[0] != DOCUMENT and not text.startswith("#"):
                if len(fields) < 2:
                    raise UserError(
                        f"{path}: expected lines of a word and its tags, divided by blanks or "
                        f"tabs, but got {text.strip()[:60]!r}. Name another file in `path`."
                    )
                return len(fields)
    raise UserError(f"{path} has no words. Name another file in `path`.")


def _number(
    path: Path,
    column: str | int | None,
    argument: str,
    width: int,
    usual: int,
    names: dict[str, int] | None = None,
) -> int:
    """The number of a column, from 1."""
    if column is None:
        return usual
    if names and column in names:
        return names[str(column)]
    if str(column).isdigit() and 1 <= int(column) <= width:
        return int(column)
    known = f"a number from 1 to {width}" + (f", or one of {_listed(names)}" if names else "")
    raise UserError(f"{path}: `{argument}` is {known}, but got {column!r}.")


def _listed(names: Sequence[str] | dict[str, int]) -> str:
    return ", ".join(names)
