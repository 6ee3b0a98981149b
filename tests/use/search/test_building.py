"""An index is made once, brought up to date, and survives interruptions and damage."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.use.search import building
from llm2vec_pl.use.search.building import Indexer
from llm2vec_pl.use.search.files_corpus import FilesCorpus

TEXTS = [f"Text number {i} is about {i} lakes." for i in range(12)]


@pytest.fixture(scope="module")
def encoder(llama_folder) -> Encoder:
    return Encoder.from_pretrained(llama_folder, dtype="float32", prompts={"document": "Read: "})


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i, text in enumerate(TEXTS):
        (folder / f"{i:02}.txt").write_text(text)
    return folder


@pytest.fixture
def embedded(encoder, monkeypatch) -> list[str]:
    """The texts that the encoder is given from now on."""
    seen: list[str] = []
    ask = encoder.encode_document

    def encode_document(texts, **how):
        seen.extend(texts)
        return ask(texts, **how)

    monkeypatch.setattr(encoder, "encode_document", encode_document, raising=False)
    return seen


def indexer(encoder, llama_folder, corpus, lines: list[str] | None = None, **how) -> Indexer:
    report = [].append if lines is None else lines.append
    return Indexer(encoder, llama_folder, FilesCorpus(corpus), report=report, **how)


def assert_right(index, encoder) -> None:
    """Each passage has the embedding of its own text."""
    found = [index.passages[row] for row in range(len(index))]
    expected = encoder.encode_document([passage.embedded for passage in found])
    torch.testing.assert_close(torch.from_numpy(index.embeddings), expected, rtol=0, atol=1e-5)


def test_an_index_has_the_embedding_of_each_passage_and_is_used_again(
    encoder, llama_folder, corpus, embedded
):
    lines: list[str] = []
    index = indexer(encoder, llama_folder, corpus, lines).index()
    assert [index.passages[row].text for row in range(len(index))] == TEXTS
    assert_right(index, encoder)
    assert "no index yet" in lines[0]
    assert lines[1] == "12 passages: 12 to embed"
    embedded.clear()
    lines.clear()
    again = indexer(encoder, llama_folder, corpus, lines).index()
    assert (embedded, lines) == ([], [])
    np.testing.assert_array_equal(again.embeddings, index.embeddings)


def test_only_new_texts_are_embedded_when_the_corpus_has_changed(
    encoder, llama_folder, corpus, embedded
):
    indexer(encoder, llama_folder, corpus).index()
    embedded.clear()
    (corpus / "00.txt").unlink()
    (corpus / "03.txt").write_text("Something else.")
    (corpus / "99.txt").write_text(TEXTS[5])  # a text that is there already
    lines: list[str] = []
    index = indexer(encoder, llama_folder, corpus, lines).index()
    assert embedded == ["Something else."]
    assert "has changed (1 new, 1 changed, 1 gone): the index is brought up to date" in lines[0]
    assert lines[1] == "12 passages: 1 to embed, 11 are there"
    assert_right(index, encoder)


def test_what_was_embedded_before_ctrl_c_is_kept(
    encoder, llama_folder, corpus, embedded, monkeypatch
):
    real = building._timed_chunks

    def interrupted(rows):
        for number, chunk in enumerate(real(rows[:5])):
            yield chunk
            assert number == 0
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "_timed_chunks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        indexer(encoder, llama_folder, corpus).index()
    monkeypatch.setattr(building, "_timed_chunks", real)
    embedded.clear()
    lines: list[str] = []
    make = indexer(encoder, llama_folder, corpus, lines)
    index = make.index()
    assert embedded == TEXTS[5:]
    assert "12 passages: 7 to embed, 5 are there" in lines
    assert_right(index, encoder)
    assert sorted(path.name for path in make.folder.iterdir()) == ["index"]


def test_leftovers_of_a_kill_are_cleared_or_put_back(encoder, llama_folder, corpus, embedded):
    make = indexer(encoder, llama_folder, corpus)
    make.index()
    (make.folder / "index").rename(make.folder / ".index.before")  # killed between two renames
    (make.folder / ".index.unfinished-123").mkdir()
    embedded.clear()
    index = make.index()
    assert embedded == []
    assert_right(index, encoder)
    assert sorted(path.name for path in make.folder.iterdir()) == ["index"]


@pytest.mark.parametrize(
    "name", ["embeddings.npy", "passages.jsonl", "index.json", "keys.npy", "starts.npy"]
)
def test_a_damaged_index_is_made_again(name, encoder, llama_folder, corpus):
    make = indexer(encoder, llama_folder, corpus)
    file = make.index().folder / name
    file.write_bytes(file.read_bytes()[:-20])
    lines: list[str] = []
    index = indexer(encoder, llama_folder, corpus, lines).index()
    assert "its index is damaged and made again" in lines[0]
    assert_right(index, encoder)


def test_a_text_that_stands_twice_is_embedded_once(encoder, llama_folder, corpus, embedded):
    for file in corpus.iterdir():
        file.write_text(TEXTS[0])
    index = indexer(encoder, llama_folder, corpus).index()
    assert embedded == [TEXTS[0]]
    assert len(index) == 12
    assert_right(index, encoder)


def test_another_encoder_prompt_or_length_has_an_index_of_its_own(encoder, llama_folder, corpus):
    folders = {
        indexer(encoder, llama_folder, corpus).folder,
        indexer(encoder, llama_folder, corpus, passage_tokens=64).folder,
        Indexer(encoder, llama_folder, FilesCorpus(corpus, "body")).folder,
        Indexer(encoder, llama_folder, FilesCorpus(corpus / "00.txt")).folder,
        Indexer(Encoder(llama_folder, prompts={"document": "X"}), llama_folder, FilesCorpus(corpus)).folder,
    }  # fmt: skip
    assert len(folders) == 5


def test_passages_of_no_tokens_are_refused(encoder, llama_folder, corpus):
    with pytest.raises(UserError, match="`passage_tokens` is at least 16, but got 0"):
        indexer(encoder, llama_folder, corpus, passage_tokens=0)


def test_a_cache_that_cannot_be_written_says_so(encoder, llama_folder, corpus, monkeypatch):
    monkeypatch.setenv("LLM2VEC_PL_CACHE", str(corpus / "00.txt"))
    with pytest.raises(UserError, match="LLM2VEC_PL_CACHE"):
        indexer(encoder, llama_folder, corpus).index()


def test_a_full_disk_says_so(encoder, llama_folder, corpus, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(building.EmbeddingLog, "append", full)
    with pytest.raises(UserError, match="No space left"):
        indexer(encoder, llama_folder, corpus).index()
