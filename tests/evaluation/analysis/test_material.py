import json

import pytest

from llm2vec_pl.errors import UserError
from llm2vec_pl.evaluation import STSTask
from llm2vec_pl.evaluation.analysis import read_material
from llm2vec_pl.evaluation.analysis.material import similar_pairs


def test_only_what_is_asked_for_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr("llm2vec_pl.evaluation.analysis.material._docs", lambda: 1 / 0)
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"body": f"text {i}"}) for i in range(3)))
    found = read_material(["future", "similarity"], texts=str(file), column="body", limit=5)
    assert len(found.triples) == 5
    assert found.texts == ["text 0", "text 1", "text 2"]
    assert found.sts is None
    assert found.retrieval is None


def test_positive_pairs_are_those_with_the_highest_scores_each_sentence_once():
    task = STSTask("t", list("abcad"), list("vwxyz"), [5.0, 4.0, 3.9, 4.5, 0.0])
    assert similar_pairs(task, limit=10) == (["a", "b"], ["v", "w"])
    with pytest.raises(UserError, match="`sts`: expected at least two pairs.*at least 8.*has 1"):
        similar_pairs(STSTask("t", ["a", "b"], ["c", "d"], [0.0, 10.0]), limit=10)


@pytest.mark.slow
def test_pythons_documentation_takes_the_place_of_files(standard_library_docs):
    found = read_material(["attention", "geometry", "layers"], limit=20, length=16)
    assert len(found.texts) > 32
    assert len(found.pairs[0]) == len(found.pairs[1]) == len(found.retrieval.queries) == 20


@pytest.mark.parametrize(
    ("line", "message"),
    [('{"text": 3}', "line 2: expected a text in 'text'"), ("{broken", "line 2")],
)
def test_a_broken_row_of_texts_is_named(line, message, tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "a"}\n' + line)
    with pytest.raises(UserError, match=message):
        read_material(["attention"], texts=str(file))


@pytest.mark.parametrize("options", [{"limit": 1}, {"length": 0}])
def test_too_small_a_number_is_an_error(options):
    with pytest.raises(UserError, match="`limit` and `length` expect at least 2"):
        read_material(["future"], **options)
