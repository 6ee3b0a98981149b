import numpy as np

from llm2vec_pl.encoder import text_key
from llm2vec_pl.use.search.store import KEY, EmbeddingLog, Known


def keys(*texts: str) -> list[bytes]:
    return [text_key(text) for text in texts]


def test_what_was_appended_is_read(tmp_path):
    log = EmbeddingLog(tmp_path, 3)
    vectors = np.arange(9, dtype=np.float32).reshape(3, 3)
    log.append(keys("a", "b"), vectors[:2])
    log.append(keys("c"), vectors[2:])
    known = log.read()
    rows = known.rows(np.array(keys("c", "none", "a"), KEY))
    assert rows.tolist() == [2, -1, 0]
    np.testing.assert_array_equal(known.vectors[rows[0]], vectors[2])


def test_what_a_killed_process_left_half_written_is_cut_off(tmp_path):
    log = EmbeddingLog(tmp_path, 2)
    log.append(keys("a"), np.ones((1, 2), np.float32))
    for file in tmp_path.iterdir():
        with file.open("ab") as opened:
            opened.write(b"half")
    with (tmp_path / "log.vectors").open("ab") as opened:
        opened.write(np.zeros(4, np.float32).tobytes())  # vectors whose keys are missing
    log.append(keys("b"), np.full((1, 2), 5, np.float32))
    known = log.read()
    assert len(known.keys) == 2
    rows = known.rows(np.array(keys("a", "b"), KEY))
    assert known.vectors[rows].tolist() == [[1, 1], [5, 5]]


def test_an_empty_log_knows_nothing(tmp_path):
    known = EmbeddingLog(tmp_path, 2).read()
    assert known.rows(np.array(keys("a"), KEY)).tolist() == [-1]


def test_keys_that_end_with_zero_bytes_are_found():
    ending = np.array([b"x" * 15 + b"\0", b"x" * 14 + b"\0\0"], KEY)
    known = Known(ending, np.eye(2, dtype=np.float32))
    assert known.rows(ending[::-1].copy()).tolist() == [1, 0]
