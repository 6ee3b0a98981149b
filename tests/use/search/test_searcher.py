import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from llm2vec_pl.errors import UserError
from llm2vec_pl.use.search import Searcher, as_json, as_text, open_corpus
from llm2vec_pl.use.search.python_corpus import PythonCorpus

PLACES = ["the harbour of Oslo", "a bakery in Rome", "the old library", "fresh bread and rolls"]


@pytest.fixture(scope="module")
def searcher(tmp_path_factory) -> Searcher:
    file = tmp_path_factory.mktemp("corpus") / "places.jsonl"
    rows = [{"text": text, "title": f"Place {i}"} for i, text in enumerate(PLACES)]
    file.write_text("\n".join(map(json.dumps, rows)))
    found = Searcher(open_corpus(str(file)), report=lambda line: None)
    found.file = file
    return found


def test_the_nearest_passages_come_first_with_their_cosine(searcher):
    found = searcher("where to buy bread", top=3)
    texts = [f"Place {i}\n{text}" for i, text in enumerate(PLACES)]
    query = F.normalize(searcher.encoder.encode("where to buy bread"), dim=0)
    scores = F.normalize(searcher.encoder.encode(texts)) @ query
    expected = scores.topk(3)
    assert [hit.passage.text for hit in found.hits] == [PLACES[i] for i in expected.indices]
    torch.testing.assert_close(
        torch.tensor([hit.score for hit in found.hits]), expected.values, rtol=0, atol=1e-2
    )
    assert found.seconds > 0


def test_there_are_no_more_hits_than_passages(searcher):
    assert len(searcher("bread", top=100).hits) == len(PLACES)


def test_faiss_finds_the_same(searcher):
    pytest.importorskip("faiss", reason="needs faiss (extra `search`)")
    lines: list[str] = []
    corpus = open_corpus(str(searcher.file))
    lists = Searcher(corpus, backend="faiss", report=lines.append)
    assert lines == ["FAISS sorts the embeddings into lists, once"]
    found, expected = lists("bread", top=4).hits, searcher("bread", top=4).hits
    assert [hit.passage for hit in found] == [hit.passage for hit in expected]
    again = Searcher(corpus, backend="faiss", report=lines.append)
    assert len(lines) == 1
    assert again("bread", top=4).hits == found


def test_results_are_text_for_people(searcher):
    found = searcher(PLACES[2], top=1)
    lines = as_text(found, open_corpus(str(searcher.file))).splitlines()
    assert lines[0].startswith(" 1  0.")
    assert lines[0].endswith(f"{searcher.file}:3  Place 2")
    assert lines[1].strip() == PLACES[2]


def test_results_are_json_for_programs(searcher):
    found = searcher("café\u2028", top=2)
    line = as_json(found, open_corpus(str(searcher.file)))
    assert "\n" not in line
    read = json.loads(line)
    assert read["query"] == "café\u2028"
    assert [hit["rank"] for hit in read["hits"]] == [1, 2]
    assert set(read["hits"][0]) == {"rank", "score", "place", "line", "title", "text"}
    assert read["hits"][0]["place"] == str(searcher.file)


@pytest.mark.parametrize(("query", "top", "expected"), [("x", 0, "`top`"), (" ", 1, "is empty")])
def test_bad_questions_are_refused(query, top, expected, searcher):
    with pytest.raises(UserError, match=expected):
        searcher(query, top)


def test_an_unknown_backend_is_refused(searcher):
    with pytest.raises(UserError, match="`backend` is one of auto, numpy, faiss, but got 'fais'"):
        Searcher(open_corpus(str(searcher.file)), backend="fais")


def test_python_documentation_has_a_name_for_each_text(standard_library_docs: Path):
    corpus = PythonCorpus()
    documents = {document.place: document for document in corpus.documents()}
    found = documents["textwrap.shorten"]
    assert found.text.startswith("Collapse and truncate the given text")
    assert found.title == "textwrap.shorten"
    assert corpus.state()["torch"] == torch.__version__
