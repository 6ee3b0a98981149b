"""The folder that `recipes/embed.py` writes is searched without embedding it again."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.use.bulk import Documents, Embedding, choose_columns, embed_corpus
from llm2vec_pl.use.bulk import open_corpus as open_texts
from llm2vec_pl.use.search import Searcher, as_text, open_corpus
from llm2vec_pl.use.search.embedded_corpus import EmbeddedCorpus

TEXTS = [f"Text number {i} is about {i} lakes." for i in range(25)]


@pytest.fixture(scope="module")
def encoder(llama_folder) -> Encoder:
    return Encoder.from_pretrained(llama_folder)


@pytest.fixture
def folder(encoder, tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path / "cache"))
    return embedded(encoder, tmp_path)


def embedded(encoder, place: Path, keep: list[str] | None = None, **how) -> Path:
    rows = [{"id": f"d{i}", "text": text} for i, text in enumerate(TEXTS)]
    (place / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus = open_texts(str(place / "texts.jsonl"))
    columns = choose_columns(corpus, ["text"], keep=["text"] if keep is None else keep)
    embed_corpus(encoder, Documents(corpus, columns, size=10), place / "out", Embedding(**how))
    return place / "out"


def test_its_rows_are_found_by_the_embeddings_in_it(folder, encoder, llama_folder, monkeypatch):
    monkeypatch.setattr(Encoder, "encode_document", lambda *a, **k: pytest.fail("embedded again"))
    corpus = open_corpus(str(folder))
    assert isinstance(corpus, EmbeddedCorpus)
    searcher = Searcher(corpus, llama_folder, report=lambda line: None)
    found = searcher(TEXTS[17], top=25)
    assert len(found.hits) == 25
    best = found.hits[0]
    assert (best.passage.text, best.passage.place, best.passage.line) == (TEXTS[17], "d17", None)
    assert best.score > 0.999
    expected = encoder.encode(TEXTS)
    kept = torch.from_numpy(searcher.index.embeddings)
    torch.testing.assert_close(kept, expected, rtol=0.05, atol=0.05)
    assert as_text(found, corpus).splitlines()[0].split() == ["1", f"{best.score:.3f}", "d17"]


def test_cut_half_precision_and_no_text(encoder, llama_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path / "cache"))
    folder = embedded(encoder, tmp_path, [], truncate_dim=16, precision="float16", normalize=True)
    searcher = Searcher(open_corpus(str(folder)), llama_folder, report=lambda line: None)
    (best,) = searcher(TEXTS[3], top=1).hits
    assert (best.passage.place, best.passage.text) == ("d3", "")
    assert best.score > 0.99


def test_files_that_changed_are_read_again(folder, encoder, llama_folder):
    Searcher(open_corpus(str(folder)), llama_folder, report=lambda line: None)
    (folder / "part-000002.parquet").unlink()
    lines: list[str] = []
    searcher = Searcher(open_corpus(str(folder)), llama_folder, report=lines.append)
    assert "1 gone" in lines[0]
    assert len(searcher.index) == 20


def test_another_encoder_is_refused(folder):
    with pytest.raises(UserError, match=r"are not from the encoder tiny: weights '.*`model_name`"):
        Searcher(open_corpus(str(folder)), "tiny")


def test_a_missing_part_and_a_missing_column_are_errors(folder):
    with pytest.raises(UserError, match="no column 'body'; its columns are: row, id, embedding"):
        open_corpus(str(folder), "body")
    (folder / "part-000001.parquet").unlink()
    with pytest.raises(UserError, match="lacks part-000001.parquet: its embedding is not finished"):
        open_corpus(str(folder))


def test_half_a_file_is_an_error_that_names_it(folder):
    file = folder / "part-000000.parquet"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match="part-000000.parquet cannot be read as Parquet"):
        open_corpus(str(folder))


def test_parquet_files_of_others_are_texts(folder):
    table = pq.read_table(folder / "part-000000.parquet").replace_schema_metadata(None)
    for file in folder.iterdir():
        file.unlink()
    pq.write_table(table, folder / "part-000000.parquet")
    assert next(iter(open_corpus(str(folder)).documents())).text == TEXTS[0]
