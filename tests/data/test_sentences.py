from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm2vec_pl.data import PythonDocsSentences, WikipediaSentences
from llm2vec_pl.data.files.docstrings import sentences_of
from llm2vec_pl.encoder.tokenizer import TextTokenizer
from llm2vec_pl.errors import UserError

SENTENCES = [f"This is sentence number {i}." for i in range(300)]


def opened(data: WikipediaSentences, tokenizer) -> WikipediaSentences:
    data.attach(TextTokenizer(tokenizer, max_length=64)).prepare_data()
    data.setup()
    return data


def texts(data: WikipediaSentences, split: str) -> list[str]:
    examples = data.tasks[0].examples(split)  # type: ignore[arg-type]
    return [examples.example(row, 0).query for row in range(len(examples))]


def test_a_sentence_a_line_is_its_own_positive(tmp_path: Path, tokenizer) -> None:
    path = tmp_path / "wiki1m_for_simcse.txt"
    path.write_text("\n".join(SENTENCES))
    data = opened(WikipediaSentences(str(path), batch_size=8), tokenizer)
    train, validation = texts(data, "train"), texts(data, "validation")
    assert sorted(train + validation) == sorted(SENTENCES)
    assert 2 <= len(validation) <= 60
    for batch in data.train_dataloader():
        assert set(batch) == {"query", "positive"}
        assert all(batch["query"][key].equal(batch["positive"][key]) for key in batch["query"])


def test_a_sentence_that_comes_again_is_left_out_and_counted(tmp_path: Path, tokenizer) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join([*SENTENCES, *SENTENCES[:7], SENTENCES[0].replace(" ", "  ")]))
    data = opened(WikipediaSentences(str(path)), tokenizer)
    assert sorted(texts(data, "train") + texts(data, "validation")) == sorted(SENTENCES)
    assert data.tasks[0].notes == ["8 of 308 sentences left out as repeated"]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_other_files_have_a_column(tmp_path: Path, tokenizer, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps({"id": 1, "body": text}) for text in SENTENCES))
    elif kind == "csv":
        path.write_text("\n".join(["body", *SENTENCES]))
    else:
        pq.write_table(pa.table({"body": SENTENCES}), path)
    data = opened(WikipediaSentences(str(path), column="body", max_rows=50), tokenizer)
    assert sorted(texts(data, "train") + texts(data, "validation")) == sorted(SENTENCES[:50])
    with pytest.raises(UserError, match=r"no column 'text'; .*body"):
        opened(WikipediaSentences(str(path)), tokenizer)


def test_a_validation_file_is_the_validation_split(tmp_path: Path, tokenizer) -> None:
    (tmp_path / "train.txt").write_text("\n".join(SENTENCES[:200]))
    (tmp_path / "dev.txt").write_text("\n".join(SENTENCES[200:]))
    data = opened(WikipediaSentences(str(tmp_path)), tokenizer)
    assert texts(data, "train") == SENTENCES[:200]
    assert texts(data, "validation") == SENTENCES[200:]


def test_a_training_sentence_that_is_a_validation_sentence_is_left_out(
    tmp_path: Path, tokenizer
) -> None:
    (tmp_path / "train.txt").write_text("\n".join(SENTENCES))
    (tmp_path / "dev.txt").write_text("\n".join(SENTENCES[:7]).replace(" is ", "  is "))
    data = opened(WikipediaSentences(str(tmp_path)), tokenizer)
    assert texts(data, "train") == SENTENCES[7:]
    assert len(texts(data, "validation")) == 7
    assert data.tasks[0].notes == ["7 sentences left out: they are validation sentences too"]


def test_bad_rows_are_counted_or_an_error(tmp_path: Path, tokenizer) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in [*SENTENCES, None, ""]))
    data = opened(WikipediaSentences(str(path), on_bad_row="skip"), tokenizer)
    note = f"skipped 2 of 302 rows: 1 null, 1 empty (first: {path} line 301)"
    assert data.tasks[0].notes == [note]
    with pytest.raises(UserError, match="line 301"):
        opened(WikipediaSentences(str(path)), tokenizer)


def test_an_empty_file_is_an_error(tmp_path: Path, tokenizer) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match="no batch to train on"):
        opened(WikipediaSentences(str(tmp_path / "a.txt")), tokenizer)


def test_the_sentences_of_simcse_are_the_default(tmp_path: Path, tokenizer, monkeypatch) -> None:
    """`load_dataset` itself, given a folder in the place of the hub."""
    import datasets

    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "wiki1m_for_simcse.txt").write_text("\n".join(SENTENCES))
    (hub / "nli_for_simcse.csv").write_text("sent0,sent1,hard_neg\na,b,c\n")
    load, asked = datasets.load_dataset, []

    def local(path: str, subset: str | None, **options: object) -> object:
        asked.append((path, subset))
        return load(str(hub), subset, cache_dir=str(tmp_path / "hf"), **options)

    monkeypatch.setattr("datasets.load_dataset", local)
    data = opened(WikipediaSentences(), tokenizer)
    assert asked[0] == ("princeton-nlp/datasets-for-simcse", None)
    assert sorted(texts(data, "train") + texts(data, "validation")) == sorted(SENTENCES)


def test_real_sentences_are_read(shared_data: Path, tokenizer) -> None:
    path = str(shared_data / "wikipedia" / "wiki_sentences.txt")
    data = opened(WikipediaSentences(path, max_rows=5000), tokenizer)
    assert len(texts(data, "train")) + len(texts(data, "validation")) == 4999
    assert data.tasks[0].notes == ["1 of 5,000 sentences left out as repeated"]


def test_sentences_of_held_out_names_are_in_validation_alone(docs, tokenizer) -> None:
    data = PythonDocsSentences(batch_size=8).attach(TextTokenizer(tokenizer, 64))
    data.prepare_data()
    data.setup()
    task = data.tasks[0]
    names = {
        split: {d.text for d in data.docs.docstrings(split)} for split in ("train", "validation")
    }  # type: ignore[arg-type]
    for split in ("train", "validation"):
        examples = task.examples(split)  # type: ignore[arg-type]
        for row in range(0, len(examples), 7):
            sentence = examples.example(row, 0).query
            assert any(sentence in " ".join(text.split()) for text in names[split])
    found, held_out = (list(data.sentences(split)) for split in ("train", "validation"))  # type: ignore[arg-type]
    assert {s.casefold() for s in found}.isdisjoint(s.casefold() for s in held_out)
    everything = [s for d in data.docs.docstrings("train") for s in sentences_of(d.text)]
    repeated = [s for s in everything if s in set(held_out)]
    assert len(repeated) > 500
    line = f"{len(repeated)} sentences left out: they are validation sentences too"
    assert task.notes == [line]
    assert len(task.train) == len(set(found))
    batch = next(iter(data.train_dataloader()))
    assert batch["query"]["text_id"].equal(batch["positive"]["text_id"])
    assert batch["query"]["input_ids"].equal(batch["positive"]["input_ids"])
    assert "negative" not in batch


def test_sentences_have_the_lengths_asked_for(docs) -> None:
    data = PythonDocsSentences(min_length=40, max_length=42)
    lengths = {len(sentence) for sentence in data.sentences("train")}
    assert lengths
    assert lengths <= {40, 41, 42}
    with pytest.raises(UserError, match="`min_length`"):
        PythonDocsSentences(min_length=10, max_length=9)
