import multiprocessing
import sqlite3

import numpy as np
import pytest

from llm2vec_pl.encoder import EmbeddingCache, text_key
from llm2vec_pl.errors import UserError

KEYS = [text_key(f"text {i}") for i in range(1500)]
VECTORS = dict(zip(KEYS, np.random.default_rng(0).normal(size=(1500, 8)), strict=True))


def filled(folder):
    cache = EmbeddingCache(folder, 8)
    cache.put(VECTORS)
    return cache


def assert_is(vector, key):
    np.testing.assert_array_equal(vector, VECTORS[key].astype(np.float32))


def test_vectors_are_found_by_another_process_or_run(tmp_path):
    filled(tmp_path)
    found = EmbeddingCache(tmp_path, 8).get([*KEYS, text_key("unknown")])
    assert found.keys() == VECTORS.keys()
    for key in KEYS:
        assert_is(found[key], key)


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 4), (np.float16, 2)])
def test_a_vector_takes_little_more_than_its_bytes(tmp_path, dtype, size):
    cache = EmbeddingCache(tmp_path, 384, dtype)
    cache.put({key: np.ones(384) for key in KEYS})
    (file,) = tmp_path.glob("*.sqlite")
    assert file.stat().st_size < 1.4 * size * 384 * len(KEYS)
    assert cache.get(KEYS[:1])[KEYS[0]].dtype == dtype


@pytest.mark.parametrize("size", [0, 10, 5000, 0.5])
def test_a_half_written_file_loses_vectors_and_nothing_else(tmp_path, size):
    filled(tmp_path)
    (file,) = tmp_path.glob("*.sqlite")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(size * len(whole)) if size == 0.5 else size])
    cache = EmbeddingCache(tmp_path, 8)
    for key, vector in cache.get(KEYS).items():
        assert_is(vector, key)
    cache.put(VECTORS)
    cache.put(VECTORS)  # the first may have met the damage
    assert len(EmbeddingCache(tmp_path, 8).get(KEYS)) == len(KEYS)


def test_a_file_damaged_while_it_is_open_is_begun_again_by_all_who_have_it(tmp_path):
    one, two = filled(tmp_path), EmbeddingCache(tmp_path, 8)
    two.get(KEYS[:1])
    (file,) = tmp_path.glob("*.sqlite")
    file.write_bytes(b"not a database" * 1000)
    for cache in (one, two):
        assert cache.get(KEYS) == {}
    one.put({KEYS[0]: VECTORS[KEYS[0]]})
    assert_is(two.get(KEYS)[KEYS[0]], KEYS[0])
    assert not file.exists()


def test_a_transaction_that_was_cut_off_leaves_nothing(tmp_path):
    cache = filled(tmp_path)
    (file,) = tmp_path.glob("*.sqlite")
    other = sqlite3.connect(file)
    other.execute("INSERT INTO vectors VALUES (?, ?)", (b"cut off", b"1234567890123456"))
    del other  # never committed
    assert cache.get([b"cut off"]) == {}
    assert len(cache.get(KEYS)) == len(KEYS)


def test_vectors_of_another_size_count_as_missing(tmp_path):
    filled(tmp_path)
    assert EmbeddingCache(tmp_path, 9).get(KEYS) == {}


def write(folder, first):
    cache = EmbeddingCache(folder, 8)
    for i in range(first, 60, 3):
        cache.put({KEYS[i]: VECTORS[KEYS[i]]})
        cache.get(KEYS[i : i + 5])


def test_processes_write_at_the_same_time(tmp_path):
    """Forked from one that has the file open, as loaders' workers and ranks may be."""
    fork = multiprocessing.get_context("fork")
    cache = EmbeddingCache(tmp_path, 8)
    cache.get(KEYS)
    processes = [fork.Process(target=write, args=(tmp_path, i)) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(cache.get(KEYS)) == 60


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    cache = EmbeddingCache(tmp_path / "gone", 8)
    with pytest.raises(UserError, match="LLM2VEC_PL_CACHE"):
        cache.put({KEYS[0]: VECTORS[KEYS[0]]})


def test_a_text_with_a_lone_surrogate_has_a_key():
    assert len({text_key("cut \ud83d"), text_key("cut \ufffd"), text_key("")}) == 3
