"""Rows become documents with an id, or say what is wrong with them."""

from __future__ import annotations

import json

import pytest

from llm2vec_pl.errors import UserError


def read(documents):
    return [each for chunk in documents.chunks(lambda k: True) for each in chunk.documents]


def test_ids_are_the_corpus_own_or_the_numbers_of_rows(documents, tmp_path):
    assert [d.id for d in read(documents())][:2] == ["d0", "d1"]
    assert [d.id for d in read(documents(id_column="title"))][:2] == ["Lake 0", "Lake 1"]
    assert [d.row for d in read(documents(size=4))] == list(range(23))
    path = tmp_path / "lines.txt"
    path.write_text("one\ntwo\n")
    assert [(d.id, d.text) for d in read(documents(path))] == [("0", "one"), ("1", "two")]


def test_several_columns_are_joined_and_further_ones_kept(documents, tmp_path):
    path = tmp_path / "more.jsonl"
    rows = [
        {"id": 7, "title": "A", "text": "b", "tags": ["x", "ü"]},
        {"id": 8, "title": None, "text": "c\ud800", "tags": None},
        {"id": 9, "title": "", "text": "d"},
    ]
    path.write_text("\n".join(map(json.dumps, [rows[0], rows[2]])))
    found = read(documents(path, text=["title", "text"], keep=["text", "tags"]))
    assert [d.text for d in found] == ["A b", "d"]
    assert [d.kept for d in found] == [("b", '["x", "ü"]'), ("d", None)]
    assert [d.id for d in found] == ["7", "9"]


BAD = {
    '{"_id": "x", "text": 5}': r"not a string \(int\) in the column text",
    '{"_id": "x", "text": null}': "null in the column text",
    '{"_id": "x", "text": " "}': "empty in the column text",
    '{"_id": "x"}': "null in the column text",
    '{"text": "no id"}': "no id in the column _id",
    '{"_id": 1.5, "text": "a"}': "no id in the column _id",
    '{"_id": "x", "text': "broken JSON",
    '["a"]': "not a JSON object",
    '{"_id": "x", "text": "\\ud800"}': "broken UTF-8",
}


@pytest.mark.parametrize("line", BAD)
def test_a_row_without_a_text_or_an_id_is_an_error_with_file_and_line(line, documents, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"_id": "first", "text": "good"}\n' + line + "\n")
    with pytest.raises(UserError, match=rf"bad.jsonl line 2: expected .* but got {BAD[line]}"):
        read(documents(path))


def test_such_rows_can_be_left_out_and_do_not_shift_the_others(documents, tmp_path):
    path = tmp_path / "bad.jsonl"
    good = ['{"_id": "a", "text": "one"}', '{"_id": "b", "text": "two"}']
    path.write_text("\n".join([*good[:1], *BAD, *good[1:]]))
    found = documents(path, on_bad_row="skip", size=4)
    chunks = list(found.chunks(lambda k: True))
    assert [(d.row, d.id) for chunk in chunks for d in chunk.documents] == [(0, "a"), (10, "b")]
    assert sum(chunk.skipped.total() for chunk in chunks) == len(BAD)
    assert "1 with not a string (int) in the column text" in chunks[0].notes[0]
    assert found.rows == len(BAD) + 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"text": ["body"]}, "no column 'body'; its columns are: _id, title, text. Set `columns`"),
        ({"id_column": "key"}, "no column 'key'.*Set `id_column`"),
        ({"keep": ["url"]}, "no column 'url'.*Set `keep`"),
        ({"text": []}, "`columns` names no column"),
        ({"size": 0}, "`rows_per_file` is at least 1"),
    ],
)
def test_a_wrong_column_is_found_before_anything_is_read(options, expected, documents):
    with pytest.raises(UserError, match=expected):
        documents(**options)


def test_a_kept_column_cannot_take_the_place_of_ours(documents, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "embedding": [1]}')
    with pytest.raises(UserError, match="`keep='embedding'`: the files have a column"):
        documents(path, keep=["embedding"])
