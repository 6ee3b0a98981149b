import importlib.util

import numpy as np
import pytest

from llm2vec_pl.errors import UserError
from llm2vec_pl.use.search import faiss_index
from llm2vec_pl.use.search.faiss_index import FaissIndex

needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="needs faiss (extra `search`)"
)


def clustered(count: int, size: int = 32) -> np.ndarray:
    """Vectors around centres, as the embeddings of texts are."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(50, size))
    noise = 0.5 * draw.normal(size=(count, size))
    return (centres[draw.integers(50, size=count)] + noise).astype(np.float32)


@needs_faiss
def test_nearly_all_of_the_nearest_are_found_with_their_cosine(tmp_path):
    vectors = clustered(5000)
    index = FaissIndex(tmp_path, vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = expected = 0
    for row in range(0, 5000, 250):
        cosines = unit @ unit[row]
        nearest = set(np.argsort(-cosines)[:10].tolist())
        hits = index.search(3 * vectors[row], 10)
        assert hits[0][0] == row
        assert all(abs(score - cosines[number]) < 2e-3 for number, score in hits)
        found += len(nearest & {number for number, _ in hits})
        expected += 10
    assert found >= 0.9 * expected


@needs_faiss
def test_the_file_is_built_once(tmp_path, monkeypatch):
    vectors = clustered(500)
    first = FaissIndex(tmp_path, vectors).search(vectors[7], 3)
    monkeypatch.setattr(FaissIndex, "build", lambda self: pytest.fail("built again"))
    assert FaissIndex(tmp_path, vectors).search(vectors[7], 3) == first


@needs_faiss
@pytest.mark.parametrize("count", [1, 3, 60])
def test_few_embeddings_are_all_found(count, tmp_path):
    vectors = clustered(count)
    hits = FaissIndex(tmp_path, vectors).search(vectors[0], 100)
    assert sorted(number for number, _ in hits) == list(range(count))


def test_without_faiss_an_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(faiss_index, "has_faiss", lambda: False)
    with pytest.raises(UserError, match=r"llm2vec_pl\[search\]"):
        FaissIndex(tmp_path, clustered(3))
