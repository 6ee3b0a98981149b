from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm2vec_pl.data.files.rows import READERS, GoodTexts, extension, problem_of
from llm2vec_pl.errors import UserError


def good_texts(path: Path, on_bad_row: str = "skip", column: str = "text") -> GoodTexts:
    return GoodTexts(READERS[extension(path)](path, column), on_bad_row)  # type: ignore[arg-type]


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


JSON_LINES = {
    "null": b'{"text": null}',
    "empty": b'{"text": "  "}',
    "not a string": b'{"text": 7}',
    "broken JSON": b'{"text": "cut of',
    "broken UTF-8": b'{"text": "caf\xe9"}',
    "not a JSON object": b'["text"]',
}


@pytest.mark.parametrize("problem", JSON_LINES)
def test_a_bad_json_line_is_an_error_with_file_and_line(tmp_path: Path, problem: str) -> None:
    shown = "int 7" if problem == "not a string" else problem
    content = b'{"text": "one"}\n\n' + JSON_LINES[problem] + b'\n{"text": "two"}\n'
    path = write(tmp_path / "a.jsonl", content)
    with pytest.raises(UserError, match=rf"a\.jsonl line 3: .*{shown}"):
        list(good_texts(path, "error"))


@pytest.mark.parametrize("problem", JSON_LINES)
def test_a_bad_json_line_is_counted_and_skipped(tmp_path: Path, problem: str) -> None:
    content = b'{"text": "one"}\n' + JSON_LINES[problem] + b'\n{"text": "two"}\n'
    texts = good_texts(write(tmp_path / "a.jsonl", content))
    assert list(texts) == ["one", "two"]
    assert texts.skipped == {problem: 1}


def test_the_summary_counts_each_kind_and_names_the_first(tmp_path: Path) -> None:
    bad = b"\n".join([JSON_LINES["broken JSON"], JSON_LINES["null"], JSON_LINES["null"]])
    path = write(tmp_path / "a.jsonl", b'{"text": "one"}\n' * 1000 + bad)
    texts = good_texts(path)
    assert len(list(texts)) == 1000
    expected = f"skipped 3 of 1,003 rows: 2 null, 1 broken JSON (first: {path} line 1,001)"
    assert texts.summary == expected


def test_half_a_surrogate_pair_is_a_bad_row() -> None:
    assert problem_of("\ud83d") == "broken UTF-8"
    assert problem_of("\U0001f600") is None


def test_empty_lines_of_a_text_file_are_no_rows(tmp_path: Path) -> None:
    texts = good_texts(write(tmp_path / "a.txt", "one\r\n\n  \n\ntwo \n"), "error")
    assert list(texts) == ["one", "two "]


def test_a_byte_order_mark_and_odd_line_separators_are_kept_out_and_in(tmp_path: Path) -> None:
    text = "a\u2028b\x85c\x0cd\re"  # str.splitlines would cut at each of these
    path = write(tmp_path / "a.txt", b"\xef\xbb\xbf" + text.encode() + b"\n")
    assert list(good_texts(path, "error")) == [text]


def test_a_broken_byte_of_a_text_file_has_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"one\n\ncaf\xe9\nthree\n")
    with pytest.raises(UserError, match=r"a\.txt line 3: .*broken UTF-8.*`on_bad_row=\"skip\"`"):
        list(good_texts(path, "error"))
    assert list(good_texts(path)) == ["one", "three"]


def test_csv_records_over_several_lines_are_counted_by_line(tmp_path: Path) -> None:
    content = 'id,text\n1,"one\nand more"\n\n2,\n3\n4,' + "x" * 200_000
    texts = good_texts(write(tmp_path / "a.csv", content))
    assert list(texts) == ["one\nand more", "x" * 200_000]
    assert texts.skipped == {"empty": 1, "null": 1}
    assert texts.first_skipped.endswith("a.csv line 5")


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_bad_parquet_row_is_an_error_with_its_row(tmp_path: Path, value: str | None) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["one"] * 1500 + [value]}), path)
    with pytest.raises(UserError, match=r"a\.parquet row 1,501: "):
        list(good_texts(path, "error"))


def test_broken_bytes_and_numbers_in_parquet_are_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    broken = pa.array([b"one", b"caf\xe9", None]).view(pa.string())
    pq.write_table(pa.table({"text": broken, "n": [1, 2, 3]}), path)
    texts = good_texts(path)
    assert list(texts) == ["one"]
    assert texts.skipped == {"broken UTF-8": 1, "null": 1}
    with pytest.raises(UserError, match="row 1: expected a text, but got int 1"):
        list(good_texts(path, "error", column="n"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_wrong_column_lists_those_that_exist(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"title": ["a"], "body": ["b"]}), path)
    else:
        write(path, '{"title": "a", "body": "b"}' if name == "a.jsonl" else "title,body\na,b\n")
    with pytest.raises(UserError, match=r"no column 'text'; .*: title, body\. Set `column`"):
        list(good_texts(path))


def test_a_json_array_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '[\n{"text": "one"}\n]')
    with pytest.raises(UserError, match="one JSON object per line"):
        list(good_texts(path))


def test_gzip_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(b'{"text": "one"}\n'))
    assert list(good_texts(path)) == ["one"]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_an_unclosed_quote_is_an_error_with_file_and_line(tmp_path: Path, kind: str) -> None:
    mark = "," if kind == "csv" else "\t"
    lines = [f"id{mark}text", *(f"{i}{mark}row {i}" for i in range(300))]
    lines[21] = f'20{mark}"row 20'
    path = write(tmp_path / f"a.{kind}", "\n".join(lines))
    with pytest.raises(UserError, match=rf"a\.{kind} line 22: .*a quote that is not closed"):
        list(good_texts(path, "error"))
    texts = good_texts(path)
    assert list(texts) == [f"row {i}" for i in range(300) if i != 20]
    assert texts.skipped.total() == 1


def test_an_unclosed_quote_among_the_columns_names_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'id,"text\n1,one\n')
    with pytest.raises(UserError, match=r"a\.csv line 1: .*columns' names.*not closed"):
        list(good_texts(path))


def test_a_text_cut_by_a_delimiter_is_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text\none\ntwo, and more\nthree,\n")
    with pytest.raises(UserError, match=r"a\.csv line 3: .*more fields than columns"):
        list(good_texts(path, "error"))
    assert list(good_texts(path)) == ["one", "three"]


def test_a_column_that_is_named_twice_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,text\na,b\n")
    with pytest.raises(UserError, match=r"a\.csv has several columns 'text'"):
        list(good_texts(path))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_file_in_utf_16_is_refused_with_what_to_do(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path = write(tmp_path / "a.csv", (mark + "text\none\n").encode(encoding))
    with pytest.raises(UserError, match=r"is in UTF-16; expected UTF-8\. Convert it"):
        list(good_texts(path))
