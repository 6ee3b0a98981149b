import json

import pytest

from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation.analysis.triples import (
    Triple,
    beginning,
    read_triples,
    shared_words_accuracy,
)


def written(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def row(query="The bat slept.", positive="The bat hung there.", negative="The bat broke."):
    return {"query": query, "positive": positive, "negative": negative}


def test_ours_begin_alike_go_on_differently_and_shared_words_do_not_give_them_away():
    triples = read_triples()
    assert len(triples) == 48
    assert len({text for t in triples for text in (t.query, t.positive, t.negative)}) == 3 * 48
    for triple in triples:
        ends = {text.split()[len(beginning(triple))] for text in vars(triple).values()}
        assert len(ends) > 1
    assert abs(shared_words_accuracy(triples) - 0.5) < 0.07  # a standard error


def test_of_a_file_those_rows_are_read_that_begin_alike(tmp_path):
    file = written(
        tmp_path / "nli.jsonl",
        row(),
        row(negative="A bat broke."),
        {"query": "The bat slept.", "positive": "The bat hung."},
        row(positive="The bat slept."),
        row(negative=["The bat is white.", "another"]),
    )
    assert [t.negative for t in read_triples(file)] == ["The bat broke.", "The bat is white."]
    assert len(read_triples(file, limit=1)) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(), "{broken"], "nli.jsonl line 2: expected a triple, but got broken JSON"),
        ([row(query=3)], "nli.jsonl line 1: expected a text in 'query', but got"),
        ([row(), row(negative=7)], "nli.jsonl line 2: expected a text in 'negative'"),
        ([row(negative="A bat.")], "same 2 words, but none of 1 rows does"),
        ([{"first": "a", "second": "b"}], "query"),
    ],
)
def test_a_file_without_triples_is_an_error_that_names_the_line(rows, message, tmp_path):
    with pytest.raises(UserError, match=message):
        read_triples(written(tmp_path / "nli.jsonl", *rows))


def test_shared_words_prefer_the_sentence_with_more_of_them():
    triple = Triple("The bat slept well.", "The bat slept.", "The bat broke.")
    assert shared_words_accuracy([triple]) == 1.0
    assert shared_words_accuracy([Triple("a b c", "a b d", "a b e")]) == 0.5
