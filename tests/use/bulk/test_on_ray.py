"""Ray embeds what Lightning does, even if a worker is killed in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.use.bulk.corpus import open_corpus
from llm2vec_pl.use.bulk.documents import Documents, choose_columns
from llm2vec_pl.use.bulk.embedding import Embedding
from llm2vec_pl.use.bulk.on_ray import _workers, embed_corpus_on_ray

COUNT = 400


@pytest.fixture(scope="module")
def cluster():
    """Two CPUs; its workers get as much of them as the tests, not less, as is usual."""
    ray = pytest.importorskip("ray", reason="needs the extra `ray`")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        yield from started(ray)


def started(ray):
    ray.init(
        num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False
    )
    yield
    ray.shutdown()


def corpus(path: Path, *more: str) -> Documents:
    lines = [f"about {i} lakes{' and rivers' * (i % 7)}" for i in range(COUNT)]
    path.write_text("\n".join([*lines, *more]), errors="surrogateescape")
    opened = open_corpus(str(path))
    return Documents(opened, choose_columns(opened), 10, "error")


def kill_one_when_it_has_written(out: Path, pids: Path, killed: list[int]) -> None:
    end = time.monotonic() + 240
    while len(list(out.glob("part-*.parquet"))) < 3 and time.monotonic() < end:
        time.sleep(0.005)
    workers = [int(pid.name) for pid in pids.iterdir() if int(pid.name) != os.getpid()]
    for worker in workers[:1]:
        os.kill(worker, signal.SIGKILL)
        killed.append(len(list(out.glob("part-*.parquet"))))


@pytest.mark.exhaustive
def test_a_worker_that_is_killed_costs_no_row(cluster, llama_folder, tmp_path):
    pids, out, killed = tmp_path / "pids", tmp_path / "out", []
    pids.mkdir()

    def open_encoder() -> Encoder:
        (pids / str(os.getpid())).touch()
        return Encoder.from_pretrained(llama_folder, dtype="float32")

    documents = corpus(tmp_path / "corpus.txt")
    killer = threading.Thread(target=kill_one_when_it_has_written, args=(out, pids, killed))
    killer.start()
    done = embed_corpus_on_ray(
        open_encoder, documents, out, Embedding(batch_size=1), 1, lambda line: None
    )
    killer.join()
    assert killed[0] < COUNT // 10
    assert len(list(pids.iterdir())) >= 3  # this process, the killed worker, its successor
    assert (done.rows, done.files) == (COUNT, COUNT // 10)
    found = pq.read_table(out).to_pydict()
    assert found["row"] == list(range(COUNT))
    texts = (tmp_path / "corpus.txt").read_text().splitlines()
    expected = Encoder.from_pretrained(llama_folder, dtype="float32").encode(texts)
    np.testing.assert_allclose(found["embedding"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_an_error_of_a_worker_is_the_users_own(cluster, llama_folder, tmp_path):
    def open_encoder() -> Encoder:
        return Encoder.from_pretrained(llama_folder, dtype="float32")

    documents = corpus(tmp_path / "corpus.txt", "a broken \udcff text")
    with pytest.raises(UserError, match=r"corpus.txt line 401: expected a text"):
        embed_corpus_on_ray(open_encoder, documents, tmp_path / "out", report=lambda line: None)


def test_there_are_no_more_workers_than_devices():
    assert _workers({"CPU": 4.0}, "auto") == (4, 0)
    assert _workers({"CPU": 4.0, "GPU": 2.0}, "auto") == (2, 1)
    assert _workers({"CPU": 4.0, "GPU": 2.0}, "1") == (1, 1)
    with pytest.raises(UserError, match="`devices` is from 1 to 2, the GPUs of the Ray cluster"):
        _workers({"CPU": 4.0, "GPU": 2.0}, 3)
