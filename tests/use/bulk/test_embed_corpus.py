"""A corpus becomes a folder of embeddings: in order, continued where it stopped, never mixed."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from bulk_rows import ROWS
from filelock import FileLock

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.use.bulk import engine, parts
from llm2vec_pl.use.bulk.corpus import open_corpus
from llm2vec_pl.use.bulk.documents import Documents, choose_columns
from llm2vec_pl.use.bulk.embedding import Embedding
from llm2vec_pl.use.bulk.run import Embedded, embed_corpus

TEXTS = [row["text"] for row in ROWS]


def embed(encoder: Encoder, documents: Any, out: Path, **how: Any) -> Embedded:
    return embed_corpus(
        encoder, documents, out, Embedding(batch_size=2, **how), "cpu", 1, report=lambda line: None
    )


def rows(out: Path) -> dict[str, list]:
    return pq.read_table(out).to_pydict()


def states(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}


@pytest.fixture(scope="module")
def made(encoder, tmp_path_factory) -> tuple[Path, Path]:
    """The file of a corpus, and its folder of embeddings, which the tests leave as they are."""
    place = tmp_path_factory.mktemp("made")
    (place / "corpus.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    corpus = open_corpus(str(place / "corpus.jsonl"))
    embed(encoder, Documents(corpus, choose_columns(corpus), 5), place / "out")
    return place / "corpus.jsonl", place / "out"


def test_the_files_hold_what_encode_gives_in_the_order_of_the_corpus(encoder, documents, tmp_path):
    out = tmp_path / "out"
    done = embed(encoder, documents(keep=["title"]), out, prompt="Find: ")
    assert (done.rows, done.left_out, done.files) == (23, 0, 5)
    assert sorted(states(out)) == [f"part-00000{i}.parquet" for i in range(5)]
    found = rows(out)
    assert found["row"] == list(range(23))
    assert found["id"] == [row["_id"] for row in ROWS]
    assert found["title"] == [row["title"] for row in ROWS]
    expected = encoder.encode(TEXTS, prompt="Find: ")
    torch.testing.assert_close(torch.tensor(found["embedding"]), expected, rtol=1e-4, atol=1e-5)


def test_embeddings_are_cut_normalised_and_halved_as_asked(encoder, documents, tmp_path):
    how = {"normalize": True, "truncate_dim": 8, "precision": "float16", "prompt_name": "find"}
    embed(encoder, documents(), tmp_path / "out", **how)
    schema = pq.read_schema(tmp_path / "out" / "part-000000.parquet")
    assert schema.field("embedding").type == pa.list_(pa.float16(), 8)
    expected = encoder.encode(TEXTS, prompt="Find: ", normalize_embeddings=True, truncate_dim=8)
    found = torch.tensor(np.array(rows(tmp_path / "out")["embedding"], dtype=np.float32))
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    settings = json.loads(schema.metadata[b"llm2vec_pl"])
    assert (settings["prompt"], settings["pooling"]) == ("Find: ", "mean")


def test_the_prompt_for_documents_is_the_default(llama_folder, documents, tmp_path):
    prompted = Encoder.from_pretrained(
        llama_folder, dtype="float32", prompts={"document": "Passage: "}
    )
    embed(prompted, documents(), tmp_path / "default")
    embed(prompted, documents(), tmp_path / "none", prompt="")
    for out, prompt in (("default", "Passage: "), ("none", "")):
        found = torch.tensor(rows(tmp_path / out)["embedding"])
        expected = prompted.encode(TEXTS, prompt=prompt)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_other_libraries_read_the_folder(encoder, made, tmp_path):
    files = str(made[1] / "*.parquet")
    read = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert read["id"][:2] == ["d0", "d1"]
    assert np.array(read["embedding"][:]).shape == (23, encoder.embedding_size)


def test_only_what_is_missing_or_damaged_is_embedded_again(encoder, documents, tmp_path):
    out = tmp_path / "out"
    embed(encoder, documents(), out)
    expected, before = rows(out), states(out)
    (out / "part-000001.parquet").unlink()
    damaged = out / "part-000003.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    (out / ".part-000002.parquet.unfinished-1").write_text("left by a kill")
    embed(encoder, documents(), out)
    after = states(out)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"part-000001.parquet", "part-000003.parquet"}
    assert rows(out)["id"] == expected["id"]
    np.testing.assert_allclose(rows(out)["embedding"], expected["embedding"], rtol=1e-4, atol=1e-5)
    assert not list(out.glob(".part*"))
    again = embed(encoder, documents(), out)
    assert again.rows == 23
    assert states(out) == after


OTHERWISE = {
    "prompt": ({"prompt": "Other: "}, {}, 'prompt was "" and is now "Other: "'),
    "precision": ({"precision": "float16"}, {}, "precision was"),
    "rows of a file": ({}, {"size": 7}, "rows_per_file was 5 and is now 7"),
    "column": ({}, {"text": ["title"]}, "columns was"),
    "kept": ({}, {"keep": ["title"]}, "keep was"),
}


@pytest.mark.parametrize("case", OTHERWISE)
def test_a_folder_that_was_made_otherwise_is_refused(case, encoder, documents, made):
    file, out = made
    how, options, expected = OTHERWISE[case]
    before = states(out)
    with pytest.raises(UserError, match=f"made otherwise: {expected}"):
        embed(encoder, documents(file, **options), out, **how)
    assert states(out) == before


def test_so_is_that_of_another_encoder_or_corpus(encoder, llama_folder, documents, made, tmp_path):
    file, out = made
    other = Encoder.from_pretrained(llama_folder, dtype="float32", pooling="last")
    with pytest.raises(UserError, match='pooling was "mean" and is now "last"'):
        embed(other, documents(file), out)
    changed = tmp_path / file.name
    changed.write_text(file.read_text().replace("12 lakes", "13 lakes"))
    with pytest.raises(UserError, match="corpus was"):
        embed(encoder, documents(changed), out)


def test_a_folder_with_other_parquet_files_is_refused(encoder, documents, tmp_path):
    (tmp_path / "out").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "out" / "other.parquet")
    with pytest.raises(UserError, match=r"holds other.parquet, which is no file of embeddings"):
        embed(encoder, documents(), tmp_path / "out")


def test_a_second_run_into_the_same_folder_is_refused(encoder, documents, tmp_path):
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / ".embedding.lock"),
        pytest.raises(UserError, match="Another run is writing to"),
    ):
        embed(encoder, documents(), tmp_path / "out")


@pytest.mark.parametrize("place", ["file/out", "data"])
def test_a_place_that_cannot_be_written_to_is_refused(place, encoder, documents, tmp_path):
    (tmp_path / "file").write_text("")
    corpus = documents(tmp_path / "data")
    expected = "cannot be written to: Not a directory" if place == "file/out" else "which is read"
    with pytest.raises(UserError, match=expected):
        embed(encoder, corpus, tmp_path / place)


def test_a_full_disk_leaves_whole_files_and_says_how_to_go_on(
    encoder, documents, tmp_path, monkeypatch
):
    out, sync = tmp_path / "out", os.fsync

    def full(handle: int) -> None:
        if "part-000002" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(parts.os, "fsync", full)
        with pytest.raises(UserError, match=r"part-000002.parquet could not be written: no space"):
            embed(encoder, documents(), out)
    assert len(rows(out)["row"]) == 10
    assert not list(out.glob(".part*"))
    assert embed(encoder, documents(), out).rows == 23


def test_a_signal_stops_between_batches(encoder, documents, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "embed", _then_interrupt(engine.embed))
    with pytest.raises(engine.StoppedError, match="SIGINT"):
        embed(encoder, documents(), tmp_path / "out")
    assert rows(tmp_path / "out")["row"] == [0, 1, 2, 3, 4]


def _then_interrupt(function: Any) -> Any:
    calls = []

    def embed(*args: Any) -> Any:
        calls.append(None)
        if len(calls) == 2:
            os.kill(os.getpid(), 2)
        return function(*args)

    return embed


def test_embeddings_that_are_not_finite_are_refused(encoder, documents, tmp_path, monkeypatch):
    nan = torch.full((5, encoder.embedding_size), torch.nan)
    monkeypatch.setattr(type(encoder), "encode", lambda self, texts, **how: nan[: len(texts)])
    with pytest.raises(UserError, match="not finite"):
        embed(encoder, documents(), tmp_path / "out")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"truncate_dim": 99}, "`truncate_dim` is a whole number from 1 to 32"),
        ({"prompt_name": "query"}, "no prompt named 'query'"),
        ({"prompt_name": "find", "prompt": "a"}, "Give one"),
    ],
)
def test_what_the_encoder_cannot_do_is_found_first(how, expected, encoder, documents, tmp_path):
    with pytest.raises(UserError, match=expected):
        embed(encoder, documents(), tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()
