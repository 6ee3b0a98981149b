from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm2vec_pl.data.examples.candidates import LONG_TEXT, Candidates, Columns, GoodCandidates
from llm2vec_pl.data.files.records import RECORD_READERS, extension
from llm2vec_pl.errors import UserError

GOOD = {"query": "q", "positive": "p", "negative": "n"}


def read(path: Path, on_bad_row: str = "skip", columns: Columns = Columns()) -> GoodCandidates:  # noqa: B008
    records = RECORD_READERS[extension(path)](path, columns)
    return GoodCandidates(records, columns, on_bad_row, str(path))  # type: ignore[arg-type]


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


BAD_ROWS = {
    "no positive": {"query": "q", "negative": "n"},
    "no query": {"positive": "p"},
    "positive null or empty": {"query": "q", "positive": "  "},
    "query null": {"query": None, "positive": "p"},
    "query empty": {"query": "", "positive": "p"},
    "query not a string": {"query": 7, "positive": "p"},
    "positive not a string": {"query": "q", "positive": {"text": "p"}},
    "negative not a string": {"query": "q", "positive": "p", "negative": ["n", 7]},
    "broken JSON": '{"query": "q", "positive": "cut of',
    "not a JSON object": '["q", "p"]',
    "query broken UTF-8": '{"query": "\\ud83d", "positive": "p"}',
}


@pytest.mark.parametrize("problem", BAD_ROWS)
def test_a_bad_row_is_an_error_with_file_line_and_what_to_do(tmp_path: Path, problem: str) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, "", BAD_ROWS[problem], GOOD)
    expected = rf"a\.jsonl line 3: expected a query and a positive, but got {problem}\. .*skip"
    with pytest.raises(UserError, match=expected):
        list(read(path, "error"))


@pytest.mark.parametrize("problem", BAD_ROWS)
def test_a_bad_row_is_skipped_and_counted(tmp_path: Path, problem: str) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, BAD_ROWS[problem], GOOD)
    found = read(path)
    assert list(found) == [Candidates("q", ["p"], ["n"])] * 2
    assert found.notes[0] == f"skipped 1 of 3 rows: 1 {problem} (first: {path} line 2)"


def test_a_negative_may_be_a_string_a_list_null_or_absent_in_one_file(tmp_path: Path) -> None:
    rows = [
        {"query": "q1", "positive": "p", "negative": "n"},
        {"query": "q2", "positive": "p", "negative": ["n1", "n2"]},
        {"query": "q3", "positive": "p", "negative": None},
        {"query": "q4", "positive": "p", "negative": []},
        {"query": "q5", "positive": "p"},
        {"query": "q6", "positive": ["p1", "p2"], "negative": "n"},
    ]
    found = read(write(tmp_path / "a.jsonl", *rows), "error")
    assert [row.negatives for row in found] == [["n"], ["n1", "n2"], [], [], [], ["n"]]
    assert found.notes == ["1 rows have several negatives", "1 rows have several positives"]


def test_blank_texts_in_lists_are_left_out_and_counted(tmp_path: Path) -> None:
    row = {"query": "q", "positive": ["p", " ", None], "negative": ["", "n"]}
    found = read(write(tmp_path / "a.jsonl", row), "error")
    assert list(found) == [Candidates("q", ["p"], ["n"])]
    assert found.notes == ["3 null or empty texts left out"]


def test_a_negative_that_is_the_rows_own_positive_is_left_out_and_counted(tmp_path: Path) -> None:
    row = {"query": "q", "positive": ["p"], "negative": ["p", "n"]}
    found = read(write(tmp_path / "a.jsonl", row), "error")
    assert list(found) == [Candidates("q", ["p"], ["n"])]
    assert found.notes == ["1 negatives that are their own row's positive left out"]


def test_what_a_skipped_row_held_is_not_counted_as_left_out(tmp_path: Path) -> None:
    bad = {"query": "q", "positive": "p", "negative": ["", 7]}
    found = read(write(tmp_path / "a.jsonl", bad, GOOD))
    assert len(list(found)) == 1
    assert len(found.notes) == 1


def test_duplicate_queries_are_kept_and_counted(tmp_path: Path) -> None:
    rows = [{"query": query, "positive": "p"} for query in ("a", "b", "a", " a")]
    found = read(write(tmp_path / "a.jsonl", *rows), "error")
    assert len(list(found)) == 4
    assert found.notes == ["2 rows have the query of an earlier row"]


def test_a_text_of_a_megabyte_is_kept_whole_and_counted(tmp_path: Path) -> None:
    long = "word " * 200_000
    found = read(write(tmp_path / "a.jsonl", {**GOOD, "positive": long}), "error")
    assert next(iter(found)).positives == [long]
    assert found.notes == [
        f"1 rows hold a text above {LONG_TEXT:,} characters, cut to the encoder's max_length"
    ]


@pytest.mark.parametrize("column", ["query", "positive"])
def test_a_column_that_the_first_row_lacks_names_the_flag(tmp_path: Path, column: str) -> None:
    rows = [{**{c: c for c in ("query", "positive") if c != column}, "text": "t"}] * 2
    path = write(tmp_path / "a.jsonl", *rows)
    for on_bad_row in ("error", "skip"):
        with pytest.raises(
            UserError, match=rf"no column '{column}'; .*text.*Set `{column}_column`"
        ):
            list(read(path, on_bad_row))


def test_a_negative_column_that_no_row_has_is_an_error_only_where_it_was_named(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.jsonl", {"query": "q", "positive": "p"})
    assert len(list(read(path, "error"))) == 1
    with pytest.raises(UserError, match=r"no column 'neg'.*Set `negative_column`"):
        list(read(path, "error", Columns(negative="neg")))


def test_csv_and_parquet_give_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,query,positive,negative\n1,q1,p1,n1\n2,q2,p2,\n")
    (tmp_path / "a.tsv").write_text("query\tpositive\nq1\tp1\n")
    table = {"query": ["q1", "q2"], "positive": ["p1", "p2"], "negative": [["n1"], None]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    expected = [Candidates("q1", ["p1"], ["n1"]), Candidates("q2", ["p2"], [])]
    assert list(read(tmp_path / "a.csv")) == expected
    assert list(read(tmp_path / "a.parquet", "error")) == expected
    assert list(read(tmp_path / "a.tsv")) == [Candidates("q1", ["p1"], [])]


def test_a_broken_byte_in_a_parquet_list_is_a_bad_row(tmp_path: Path) -> None:
    lists = pa.array([[b"p1"], [b"caf\xe9"]], pa.list_(pa.binary()))
    texts = pa.ListArray.from_arrays(lists.offsets, lists.values.view(pa.string()))
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"query": ["q1", "q2"], "positive": texts}), path)
    found = read(path)
    assert list(found) == [Candidates("q1", ["p1"], [])]
    assert found.skipped == {"positive broken UTF-8": 1}
