import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2vec_pl.objectives.info_nce import EachText, info_nce, similarities

B, N, D = 6, 9, 16
OWNERS = torch.tensor([0, 0, 1, 3, 3, 3, 4, 5, 5])  # 2, 1, 0, 3, 1 and 2 negatives


def texts(seed=0, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda rows: torch.randn(rows, D, generator=generator).requires_grad_(requires_grad)  # noqa: E731
    return draw(B), draw(B), draw(N)


def cosines(a, b):
    return torch.stack([F.cosine_similarity(row[None], b) for row in a])


def test_equals_cross_entropy_over_all_candidates():
    queries, positives, negatives = texts()
    scores = cosines(queries, torch.cat([positives, negatives])) / 0.05
    expected = F.cross_entropy(scores, torch.arange(B))
    torch.testing.assert_close(info_nce(queries, positives, negatives), expected)


def test_needs_no_negatives():
    queries, positives, _ = texts()
    expected = F.cross_entropy(cosines(queries, positives) / 0.05, torch.arange(B))
    torch.testing.assert_close(info_nce(queries, positives), expected)


def test_without_in_batch_negatives_a_query_meets_its_own_texts_only():
    queries, positives, negatives = texts()
    losses = []
    for i in range(B):
        own = torch.cat([positives[i : i + 1], negatives[i == OWNERS]])
        scores = cosines(queries[i : i + 1], own) / 0.1
        losses.append(F.cross_entropy(scores, torch.tensor([0])))
    loss = info_nce(queries, positives, negatives, 0.1, in_batch=False, query_index=OWNERS)
    torch.testing.assert_close(loss, torch.stack(losses).mean())


def test_symmetric_loss_is_the_mean_of_both_directions():
    queries, positives, negatives = texts()
    there = info_nce(queries, positives, negatives)
    back = info_nce(positives, queries)
    loss = info_nce(queries, positives, negatives, symmetric=True)
    torch.testing.assert_close(loss, (there + back) / 2)


@pytest.mark.parametrize("symmetric", [False, True])
def test_equals_the_loss_of_sentence_transformers(symmetric):
    losses = pytest.importorskip(
        "sentence_transformers.sentence_transformer.losses",
        reason="sentence-transformers is not installed",
    )
    queries, positives, _ = texts()
    negatives = torch.randn(B, D)
    reference = losses.MultipleNegativesRankingLoss(
        model=None,
        scale=20.0,
        partition_mode="per_direction",
        directions=("query_to_doc", "doc_to_query") if symmetric else ("query_to_doc",),
    )
    expected = reference.compute_loss_from_embeddings([queries, positives, negatives], None)
    torch.testing.assert_close(
        info_nce(queries, positives, negatives, 1 / 20, symmetric=symmetric), expected
    )


def test_a_copy_of_the_positive_is_not_held_against_the_query():
    queries, positives, negatives = texts()
    ids = EachText(torch.arange(B), torch.arange(10, 10 + B), torch.arange(20, 20 + N))
    ids.positive[4] = ids.positive[1]
    ids.negative[7] = ids.positive[1]
    scores = similarities(queries, positives, negatives, ids=ids)
    assert scores[1].isinf().nonzero().flatten().tolist() == [4, B + 7]
    assert scores[4].isinf().nonzero().flatten().tolist() == [1, B + 7]
    assert scores[[0, 2, 3, 5]].isfinite().all()


def test_a_copy_of_the_query_is_not_held_against_it():
    """In SimCSE, where a sentence that is drawn twice would be its own negative."""
    queries, positives, _ = texts()
    sentences = torch.tensor([1, 2, 3, 2, 5, 6])
    scores = similarities(queries, positives, ids=EachText(sentences, sentences, sentences[:0]))
    assert scores.isinf().nonzero().tolist() == [[1, 3], [3, 1]]


def test_the_positive_of_an_equal_query_is_a_right_answer_too():
    queries, positives, _ = texts()
    none = torch.empty(0, dtype=torch.long)
    ids = EachText(torch.tensor([1, 1, 2, 3, 4, 5]), torch.arange(10, 10 + B), none)
    assert similarities(queries, positives, ids=ids).isinf().nonzero().tolist() == [[0, 1], [1, 0]]


def test_candidates_above_the_margin_are_ignored():
    queries, positives, negatives = texts()
    plain = similarities(queries, positives, negatives)
    masked = similarities(queries, positives, negatives, margin=0.1)
    above = plain > plain.diagonal()[:, None] - 0.1
    above[torch.arange(B), torch.arange(B)] = False  # the positive itself stays
    assert 0 < above.sum() < above.numel()
    assert torch.equal(masked.isinf(), above)


def test_ignored_candidates_get_no_gradient_and_spoil_none():
    queries, positives, negatives = texts(requires_grad=True)
    temperature = torch.tensor(0.1, requires_grad=True)
    ids = EachText(torch.arange(B), torch.arange(10, 10 + B), torch.arange(10, 10 + N))
    ids.negative[:] = 10  # the first query's positive
    info_nce(queries, positives, negatives, temperature, ids=ids).backward()
    assert queries.grad.isfinite().all()
    assert temperature.grad.isfinite()
    before, negatives.grad = negatives.grad, None
    info_nce(queries[1:], positives[1:], negatives).backward()
    assert before.any()
    queries, positives, negatives = texts(requires_grad=True)
    info_nce(queries, positives, negatives, rows=slice(0, 1), ids=ids).backward()
    assert not negatives.grad.any()


def test_scores_are_float32_under_autocast():
    queries, positives, negatives = (t.bfloat16() for t in texts())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = similarities(queries, positives, negatives)
    expected = similarities(queries.float(), positives.float(), negatives.float())
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, expected)


def test_a_learned_temperature_gets_the_gradient_of_its_definition():
    queries, positives, _ = texts()
    temperature = torch.tensor(0.2, requires_grad=True)
    loss = info_nce(queries, positives, temperature=temperature)
    (gradient,) = torch.autograd.grad(loss, temperature)
    step = 1e-3
    higher, lower = (
        info_nce(queries.double(), positives.double(), temperature=0.2 + d) for d in (step, -step)
    )
    assert math.isclose(gradient.item(), (higher - lower).item() / (2 * step), rel_tol=1e-2)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 1000),
    border=st.integers(1, B - 1),
    symmetric=st.booleans(),
    duplicates=st.booleans(),
)
def test_the_rows_of_two_ranks_make_the_loss_of_one(seed, border, symmetric, duplicates):
    queries, positives, negatives = texts(seed)
    generator = torch.Generator().manual_seed(seed)
    highest = 3 if duplicates else 1000
    draw = lambda rows: torch.randint(highest, (rows,), generator=generator)  # noqa: E731
    options = {"symmetric": symmetric, "ids": EachText(draw(B), draw(B), draw(N))}
    whole = info_nce(queries, positives, negatives, **options)
    first, second = (
        info_nce(queries, positives, negatives, rows=rows, **options)
        for rows in (slice(0, border), slice(border, B))
    )
    torch.testing.assert_close((border * first + (B - border) * second) / B, whole)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100))
def test_the_length_of_an_embedding_does_not_matter(seed, scale):
    queries, positives, negatives = texts(seed)
    torch.testing.assert_close(
        info_nce(queries * scale, positives, negatives / scale),
        info_nce(queries, positives, negatives),
        atol=1e-4,
        rtol=1e-4,
    )


def test_a_missing_positive_is_an_error():
    queries, positives, _ = texts()
    with pytest.raises(ValueError, match="got 6 queries and 5 positives"):
        info_nce(queries, positives[:5])


def test_nothing_to_tell_a_query_from_is_an_error():
    queries, positives, negatives = texts()
    with pytest.raises(ValueError, match="nothing to compare the queries with"):
        info_nce(queries, positives, in_batch=False)
    with pytest.raises(ValueError, match="`query_index` for each negative"):
        info_nce(queries, positives, negatives, in_batch=False)
    with pytest.raises(ValueError, match="needs `in_batch=True`"):
        info_nce(queries, positives, in_batch=False, symmetric=True)
