import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from llm2vec_pl.evaluation import nearest
from llm2vec_pl.evaluation.nearest import Nearest


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(nearest, "_QUERIES_AT_ONCE", 3)
    monkeypatch.setattr(nearest, "_DOCUMENTS_AT_ONCE", 5)


def found(queries, documents, depth, chunk=100, own=None):
    result = Nearest(queries, depth, own)
    for part in documents.split(chunk):
        result.add(part)
    return result


def test_the_nearest_document_comes_first():
    queries = torch.tensor([[0.1, 0.9, 0.5], [0.0, 0.2, 1.0]])
    result = found(queries, torch.eye(3), depth=3)
    assert result.indices.tolist() == [[1, 2, 0], [2, 1, 0]]
    torch.testing.assert_close(result.scores[1], F.normalize(queries[1:])[0, [2, 1, 0]])


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 15), st.integers(0, 2**20))
def test_ties_go_to_the_first_document_however_the_corpus_is_cut(size, depth, chunk, seed):
    generator = torch.Generator().manual_seed(seed)
    # Cosines of -1, 0 and 1 only.
    axes = torch.cat([torch.eye(2), -torch.eye(2)])
    documents = axes[torch.randint(4, (size,), generator=generator)]
    queries = axes[torch.randint(4, (7,), generator=generator)]
    scores = queries @ documents.T
    expected = scores.sort(dim=1, descending=True, stable=True).indices[:, :depth]
    assert torch.equal(found(queries, documents, depth, chunk).indices, expected)


def test_scores_of_either_sign_are_given_back_exactly():
    queries, documents = torch.randn(8, 4), torch.randn(30, 4)
    result = found(queries, documents, depth=30)
    expected = (F.normalize(queries) @ F.normalize(documents).T).sort(descending=True).values
    torch.testing.assert_close(result.scores, expected)
    assert (result.scores < 0).any()


def test_own_documents_are_scored_apart_and_not_among_the_nearest():
    queries, documents = torch.randn(8, 4), torch.randn(30, 4)
    own = torch.tensor([[0, 29], [7, 0], [0, 3], [4, 4]])
    result = found(queries, documents, depth=29, chunk=7, own=own)
    scores = F.normalize(queries) @ F.normalize(documents).T
    torch.testing.assert_close(result.own_scores, scores[own[:, 0], own[:, 1]])
    assert not {3, 29} & set(result.indices[0][result.scores[0] > -torch.inf].tolist())
    assert result.scores[0].isinf().sum() == 1  # 28 others for a depth of 29
    assert 0 not in result.indices[7].tolist()


def test_fewer_documents_than_asked_for_are_all_there():
    assert found(torch.randn(2, 4), torch.randn(3, 4), depth=10).indices.shape == (2, 3)
