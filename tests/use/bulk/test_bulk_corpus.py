"""Rows of every kind of file and of the hub, read in chunks."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm2vec_pl.errors import UserError
from llm2vec_pl.use.bulk.corpus import open_corpus
from llm2vec_pl.use.bulk.documents import Columns, Documents

TEXTS = [f"text {i}" for i in range(11)]
RECORDS = [{"id": 100 + i, "text": text} for i, text in enumerate(TEXTS)]


def write(path: Path) -> Path:
    """The texts in a file or folder of the kind that its name says."""
    if path.suffix == ".txt":
        path.write_text("\n\n".join(TEXTS))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, RECORDS)))
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, RECORDS)).encode()))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(RECORDS), path, row_group_size=2)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "text"])
            writer.writeheader()
            writer.writerows(RECORDS)
    else:
        path.mkdir()
        for name, rows in (("b.jsonl", RECORDS[4:]), ("a.jsonl", RECORDS[:4]), (".c.jsonl", [])):
            (path / name).write_text("\n".join(map(json.dumps, rows)))
    return path


def texts_of(corpus, wanted) -> dict[int, list[str]]:
    id_column = "id" if "id" in corpus.columns else None
    documents = Documents(corpus, Columns(("text",), id_column), 3, "error")
    return {c.number: [d.text for d in c.documents] for c in documents.chunks(wanted)}


@pytest.mark.parametrize(
    "name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet", "several"]
)
def test_each_chunk_has_its_own_rows_whichever_others_are_read(name, tmp_path):
    corpus = open_corpus(str(write(tmp_path / name)))
    everything = {0: TEXTS[:3], 1: TEXTS[3:6], 2: TEXTS[6:9], 3: TEXTS[9:]}
    assert texts_of(corpus, lambda k: True) == everything
    for rank in range(2):
        own = {k: texts for k, texts in everything.items() if k % 2 == rank}
        assert texts_of(corpus, lambda k, rank=rank: k % 2 == rank) == own
    assert texts_of(corpus, lambda k: k == 2) == {2: TEXTS[6:9]}
    assert texts_of(corpus, lambda k: False) == {}
    if name != "a.txt":  # half of its lines are empty
        assert abs(corpus.count() - 11) <= 2  # a file's last line has no end
    assert corpus.identity() == open_corpus(corpus.name).identity()


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_of_the_hub_is_read_by_its_own_name(streaming, monkeypatch):
    def load(path, subset, streaming):
        found = {"corpus": datasets.Dataset.from_list(RECORDS)}
        found["queries"] = datasets.Dataset.from_list(RECORDS[:2])
        return {k: v.to_iterable_dataset() for k, v in found.items()} if streaming else found

    monkeypatch.setattr("datasets.load_dataset", load)
    corpus = open_corpus("some/corpus", split="corpus", streaming=streaming)
    assert corpus.columns == ["id", "text"]
    assert texts_of(corpus, lambda k: k % 2 == 1) == {1: TEXTS[3:6], 3: TEXTS[9:]}
    assert corpus.count() == (None if streaming else 11)
    json.dumps(corpus.identity())
    with pytest.raises(UserError, match=r"no split 'train'; it has: corpus, queries. Set `split`"):
        _ = open_corpus("some/corpus", streaming=streaming).columns


def test_a_changed_file_is_another_corpus_and_a_moved_one_is_not(tmp_path):
    before = open_corpus(str(write(tmp_path / "a.jsonl"))).identity()
    (tmp_path / "moved").mkdir()
    moved = (tmp_path / "a.jsonl").rename(tmp_path / "moved" / "a.jsonl")
    assert open_corpus(str(moved)).identity() == before
    moved.write_text(moved.read_text().replace("text 7", "text 8"))
    assert open_corpus(str(moved)).identity() != before


def test_lines_within_quotes_do_not_count_as_rows(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text\n" + '"one\ntwo\nthree\nfour"\n' * 500)
    assert open_corpus(str(path)).count() == pytest.approx(500, rel=0.01)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none.jsonl", "does not exist"),
        ("none.txt", "does not exist"),
        ("a.docx", "expected a file that ends in one of .txt, .jsonl"),
        ("mixed", "files of several kinds: .jsonl, .txt"),
        ("empty", "no such file"),
    ],
)
def test_what_is_no_corpus_is_refused(name, expected, tmp_path):
    (tmp_path / "a.docx").write_text("")
    for folder, files in {"mixed": ("a.txt", "b.jsonl"), "empty": ()}.items():
        (tmp_path / folder).mkdir()
        for file in files:
            (tmp_path / folder / file).write_text("{}")
    with pytest.raises(UserError, match=expected):
        open_corpus(str(tmp_path / name))


def test_other_files_in_a_folder_are_named(tmp_path):
    folder = write(tmp_path / "several")
    (folder / "notes.md").write_text("")
    assert open_corpus(str(folder)).notes == ["left out (unknown kind of file): notes.md"]
