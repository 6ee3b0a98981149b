import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm2vec_pl.errors import UserError
from llm2vec_pl.use.search.files_corpus import FilesCorpus


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.md").write_text("# A\n\nabout apples\n")
    (folder / "deep" / "b.rst").write_text("about bees")
    rows = [{"text": "row one", "title": "One"}, {"text": None}, {"text": "row three"}]
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "d.csv").write_text('text,other\n"from a csv",1\n')
    pq.write_table(pa.table({"text": ["from parquet"], "n": [1]}), folder / "e.parquet")
    (folder / "f.txt.gz").write_bytes(gzip.compress(b"compressed"))
    (folder / "g.png").write_bytes(b"\x89PNG")
    (folder / ".hidden.md").write_text("hidden")
    return folder


def test_a_folder_gives_the_texts_of_all_kinds_of_files(folder):
    corpus = FilesCorpus(folder)
    found = [(d.place, d.line, d.title, d.text.split("\n")[0]) for d in corpus.documents()]
    assert found == [
        ("a.md", 1, "", "# A"),
        ("c.jsonl", 1, "One", "row one"),
        ("c.jsonl", 3, "", "row three"),
        ("d.csv", 2, "", "from a csv"),
        ("deep/b.rst", 1, "", "about bees"),
        ("e.parquet", 1, "", "from parquet"),
        ("f.txt.gz", 1, "", "compressed"),
    ]
    assert corpus.notes == [
        "left out (unknown kind of file): g.png",
        "left out rows without a text: 1 null",
    ]
    assert corpus.shown("deep/b.rst") == str(folder / "deep/b.rst")


def test_the_state_tells_which_files_changed(folder):
    before = FilesCorpus(folder).state()
    (folder / "a.md").write_text("# A\n\nabout apples and pears\n")
    (folder / "deep" / "b.rst").unlink()
    after = FilesCorpus(folder).state()
    assert before["a.md"] != after["a.md"]
    assert "deep/b.rst" not in after
    assert before["c.jsonl"] == after["c.jsonl"]


def test_what_cannot_be_read_in_a_folder_is_left_out_with_the_reason(folder):
    (folder / "h.txt").write_bytes(b"\0\1\2binary")
    (folder / "i.txt").write_bytes("text".encode("utf-16"))
    (folder / "j.csv").write_text("name\nx\n")
    (folder / "k.parquet").write_bytes(b"no parquet")
    (folder / "l.txt.gz").write_bytes(b"no gzip")
    (folder / "m.json").write_text('["an", "array"]')
    corpus = FilesCorpus(folder)
    assert len(list(corpus.documents())) == 7
    notes = "\n".join(corpus.notes)
    for name, why in [
        ("h.txt", "NUL bytes"),
        ("i.txt", "UTF-16"),
        ("j.csv", "no column 'text'"),
        ("k.parquet", "Parquet"),
        ("l.txt.gz", "cannot be read"),
        ("m.json", "JSON array"),
    ]:
        (line,) = [note for note in corpus.notes if name in note]
        assert why in line, notes


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("secret")
    file.chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        list(FilesCorpus(file).documents())


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"\0\1", "a.txt holds NUL bytes: it is a binary file"),
        ("a.txt", b" \n", "holds no text to search"),
        ("a.jsonl", b'{"body": "x"}', "no column 'text'; its columns are: body. Set `column`"),
        (
            "a.jsonl",
            b'{"text": ""}\n{"text": 3}\nnonsense',
            "1 empty, 1 not a string, 1 broken JSON",
        ),
        ("a.py", b"print()", "has an unknown extension. Known are text in .txt, .md"),
    ],
)
def test_a_named_file_without_texts_is_an_error_that_says_why(name, content, expected, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        list(FilesCorpus(tmp_path / name).documents())
    assert expected in str(error.value)


def test_a_missing_path_and_an_empty_folder_are_errors(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        FilesCorpus(tmp_path / "none")
    with pytest.raises(UserError, match="holds no file to search"):
        FilesCorpus(tmp_path)


def test_another_column_is_read(tmp_path):
    (tmp_path / "a.tsv").write_text("body\ttext\nthe body\tthe text\n")
    (document,) = FilesCorpus(tmp_path / "a.tsv", "body").documents()
    assert document.text == "the body"
