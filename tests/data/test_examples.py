from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2vec_pl.data.examples.example import Candidates, Example
from llm2vec_pl.data.examples.examples import ArrowExamples, ListedExamples, write_candidates
from llm2vec_pl.data.files.text_ids import text_id


def written(folder: Path, *rows: Candidates, **options: object) -> ArrowExamples:
    write_candidates(iter(rows), folder)
    return ArrowExamples(folder, **options)  # type: ignore[arg-type]


@given(st.text(), st.text())
def test_ids_are_equal_for_equal_texts_whatever_their_blanks(one: str, two: str) -> None:
    assert (text_id(one) == text_id(two)) == (one.split() == two.split())
    assert text_id(f" {one}\n") == text_id(one)
    assert 0 <= text_id(one) < 2**63


def test_half_a_surrogate_pair_has_an_id() -> None:
    assert text_id("\ud83d") != text_id("")


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [Candidates(f"q{i}", [f"p{i}"] * (i % 3), [f"n{i}", "é\n"][: i % 2]) for i in range(30)]
    examples = written(tmp_path, *rows)
    assert [examples.candidates(i) for i in range(30)] == rows
    assert examples.lengths.tolist() == [
        len(r.query) + len((*r.positives, r.query)[0]) for r in rows
    ]


def test_rows_are_found_across_record_batches(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("llm2vec_pl.data.examples.examples._ROWS_PER_RECORD_BATCH", 7)
    monkeypatch.setattr("llm2vec_pl.data.examples.examples._CHARACTERS_PER_RECORD_BATCH", 100)
    rows = [Candidates(f"q{i}" * (i % 40 + 1), ["p"], []) for i in range(50)]
    examples = written(tmp_path, *rows)
    assert [examples.candidates(i).query for i in range(50)] == [row.query for row in rows]


def test_some_rows_in_another_order(tmp_path: Path) -> None:
    rows = [Candidates(f"q{i}", ["p" * i], []) for i in range(1, 9)]
    examples = written(tmp_path, *rows, rows=np.array([5, 2]))
    assert [examples.example(i, 0).query for i in range(len(examples))] == ["q6", "q3"]
    assert examples.lengths.tolist() == [8, 5]


def test_without_a_positive_the_query_is_its_own(tmp_path: Path) -> None:
    examples = written(tmp_path, Candidates("a sentence", [], []))
    assert examples.example(0, epoch=0) == Example("a sentence", "a sentence", [])


def test_of_several_positives_each_epoch_draws_one(tmp_path: Path) -> None:
    examples = written(tmp_path, Candidates("q", ["p1", "p2", "p3"], []))
    drawn = [examples.example(0, epoch).positive for epoch in range(20)]
    assert set(drawn) == {"p1", "p2", "p3"}
    assert drawn == [examples.example(0, epoch).positive for epoch in range(20)]


@pytest.mark.parametrize("most", [0, 1, 2, 3, 5])
def test_of_many_negatives_each_epoch_draws_some(tmp_path: Path, most: int) -> None:
    negatives = ["n1", "n2", "n3"]
    examples = written(tmp_path, Candidates("q", ["p"], negatives), max_negatives=most)
    drawn = [list(examples.example(0, epoch).negatives) for epoch in range(30)]
    assert {len(some) for some in drawn} == {min(most, 3)}
    assert all(len(set(some)) == len(some) for some in drawn)
    assert {text for some in drawn for text in some} == (set(negatives) if most else set())


def test_what_is_drawn_depends_on_the_seed(tmp_path: Path) -> None:
    rows = [Candidates("q", [f"p{i}" for i in range(9)], [])] * 20
    examples = written(tmp_path, *rows)
    other = ArrowExamples(tmp_path, seed=1)
    drawn, others = ([e.example(i, 0).positive for i in range(20)] for e in (examples, other))
    assert drawn != others


def test_a_copy_for_a_worker_holds_no_texts(tmp_path: Path) -> None:
    examples = written(tmp_path, *[Candidates("q" * 1000, ["p" * 1000], [])] * 100)
    first = examples.example(3, epoch=0)
    copy = pickle.dumps(examples)
    assert len(copy) < 10_000
    assert pickle.loads(copy).example(3, epoch=0) == first


def test_listed_examples_have_lengths(tmp_path: Path) -> None:
    examples = ListedExamples([Example("ab", "cde")])
    assert (len(examples), examples.lengths.tolist()) == (1, [5])
    assert examples.example(0, epoch=3).positive == "cde"
