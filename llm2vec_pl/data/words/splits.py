"""The sentences of a path in splits: train, validation and test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from llm2vec_pl.data.files import Row, extension, held_out, left_out, local_path, split_of
from llm2vec_pl.data.words.conll import read_columns, read_conllu
from llm2vec_pl.data.words.records import RECORDS, columns_of, names_of, read_file, sentences
from llm2vec_pl.data.words.sentence import Layout, Sentence
from llm2vec_pl.data.words.tags import NoSpanTagError, looks_like_spans, to_iob2
from llm2vec_pl.errors import UserError

WordSplit = Literal["train", "validation", "test"]
Sentences = dict[WordSplit, list[Sentence]]
HELD_OUT_PERCENT = 10
_CONVERTED = "refs/convert/parquet"  # the hub's own copy of a data set as Parquet


def read_splits(
    path: str, layout: Layout, subset: str | None = None
) -> tuple[Sentences, list[str]]:
    """All sentences of a file, a folder, or a data set of the hub; spans in IOB2.

    Without a validation split, every tenth sentence of train becomes one, chosen by a hash of its
    words: always the same ones, and equal sentences on the same side.

    Args:
        path: as for `WordTask`.
        layout: where words and tags are.
        subset: subset of the hub's data set.

    Returns:
        The sentences by split; and lines to print.

    Raises:
        UserError: with file and line, if anything cannot be read.
    """
    local = local_path(path)
    notes: list[str] = []
    if local is None:
        read = _of_the_hub(path, subset, layout)
    elif local.is_dir() and (local / "dataset_dict.json").exists():
        read = _of_dataset(path, _load_from_disk(local), layout)
    else:
        files, notes = _files(local)
        read = {s: [each for f in found for each in _read(f, layout)] for s, found in files.items()}
    read = {split: [_checked(s, layout) for s in found] for split, found in read.items() if found}
    if "train" not in read:
        raise UserError(f"`path={path!r}` has no sentence to train on.")
    _require_parts_of_speech(read["train"], layout)
    if "validation" not in read:
        read["train"], read["validation"] = _divided(read["train"])
        notes.append(
            f"no validation split: {len(read['validation']):,} sentences of train are held out"
        )
    return read, notes


def _files(path: Path) -> tuple[dict[WordSplit, list[Path]], list[str]]:
    """The files of each split, and a line on those that are left out."""
    if path.is_file():
        return {"train": [path]}, []
    found: dict[WordSplit, list[Path]] = {}
    others = []
    for file in sorted(path.rglob("*")):
        parts = file.relative_to(path).parts
        if not file.is_file() or any(part.startswith(".") for part in parts):
            continue
        split: Any = next((s for part in reversed(parts) if (s := split_of(part))), None)
        if split is None:
            others.append(file)
        else:
            found.setdefault(split, []).append(file)
    if "train" not in found:
        there = ", ".join(sorted(file.name for file in path.iterdir())[:8]) or "nothing"
        raise UserError(
            f"`path={str(path)!r}` holds no file with train in its name. Expected train, valid "
            "(dev, testa) and test (testb), as .txt or other files of columns, .conllu, .jsonl or "
            f".parquet; there is: {there}."
        )
    notes = left_out(others, "no split in the name")
    for split, files in found.items():
        kinds = {extension(file) for file in files}
        if kinds == {".conllu", ".txt"}:  # Universal Dependencies come with their texts
            texts = [file for file in files if extension(file) == ".txt"]
            notes += left_out(texts, "text of a .conllu")
            found[split] = [file for file in files if file not in texts]
        elif len(kinds) > 1:
            raise UserError(
                f"`path={str(path)!r}` holds {split} files of several kinds: "
                f"{', '.join(file.name for file in files[:5])}. Name a folder with one kind."
            )
    return found, notes


def _read(file: Path, layout: Layout) -> Iterator[Sentence]:
    reader: Callable[..., Iterator[Sentence]] = read_columns
    if extension(file) in RECORDS:
        reader = read_file
    elif extension(file) == ".conllu":
        reader = read_conllu
    return reader(file, layout)


def _of_the_hub(path: str, subset: str | None, layout: Layout) -> dict[WordSplit, list[Sentence]]:
    from datasets import load_dataset

    try:
        try:
            found = load_dataset(path, subset)
        except RuntimeError as error:  # many of these data sets are scripts, as CoNLL-2003
            if "scripts" not in str(error):
                raise
            found = load_dataset(path, subset, revision=_CONVERTED)
    except Exception as error:
        raise UserError(
            f"`path={path!r}` is not a local file or folder, and it cannot be loaded from the hub "
            f"(subset {subset!r}): {error}"
        ) from error
    return _of_dataset(path, found, layout)


def _load_from_disk(folder: Path) -> Any:
    from datasets import load_from_disk

    return load_from_disk(str(folder))


def _of_dataset(path: str, dataset: Any, layout: Layout) -> dict[WordSplit, list[Sentence]]:
    read: dict[WordSplit, list[Sentence]] = {}
    for name, part in dataset.items():
        split: Any = split_of(name)
        if split is None:
            continue
        where = f"{path} ({name})"
        word, tag = columns_of(where, part.column_names, layout)
        rows = (
            Row(value, where, number, "row")
            for number, value in enumerate(part.select_columns([word, tag]), 1)
        )
        names = names_of(part.features[tag]) or layout.names
        read.setdefault(split, []).extend(sentences(rows, word, tag, names))
    return read


def _checked(sentence: Sentence, layout: Layout) -> Sentence:
    """The sentence, its spans in IOB2."""
    if layout.task == "pos":
        return sentence
    try:
        return sentence._replace(tags=to_iob2(sentence.tags))
    except NoSpanTagError as error:
        raise UserError(
            f"{sentence.place}: expected tags of spans, such as O, B-PER and I-PER, but the "
            f"sentence that begins there has {str(error)!r}. Correct it, or set `column` (now "
            f"{layout.column or 'the usual one'}) or `task`."
        ) from None


def _divided(train: list[Sentence]) -> tuple[list[Sentence], list[Sentence]]:
    kept = [not held_out(" ".join(sentence.words), HELD_OUT_PERCENT) for sentence in train]
    if all(kept) and len(kept) > 1:
        kept[-1] = False
    return (
        [s for s, k in zip(train, kept, strict=True) if k],
        [s for s, k in zip(train, kept, strict=True) if not k],
    )


def _require_parts_of_speech(sentences: list[Sentence], layout: Layout) -> None:
    """An error if the tags are those of spans: it is the wrong column."""
    if layout.task == "pos" and looks_like_spans([tag for s in sentences for tag in s.tags]):
        raise UserError(
            f'{sentences[0].place}: expected parts of speech for `task="pos"`, but got '
            f"{', '.join(sorted({t for s in sentences for t in s.tags})[:6])}. Set `column`, or "
            '`task` to "chunk" or "ner".'
        )
