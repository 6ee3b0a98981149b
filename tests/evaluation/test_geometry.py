import math

import pytest
import torch
import torch.nn.functional as F

from llm2vec_pl.evaluation import alignment, anisotropy, effective_rank, uniformity


def test_they_are_those_of_the_papers_code():
    x, y = torch.randn(50, 8), torch.randn(50, 8)
    a, b = F.normalize(x), F.normalize(y)
    torch.testing.assert_close(alignment(x, y), (a - b).norm(p=2, dim=1).pow(2).mean())
    expected = torch.pdist(a, p=2).pow(2).mul(-2).exp().mean().log()
    torch.testing.assert_close(uniformity(x), expected)
    torch.testing.assert_close(uniformity(x, chunk_size=7), expected)


def test_the_powers_are_arguments():
    x, y = torch.eye(2)[:1], torch.eye(2)[1:]
    assert alignment(x, y, alpha=4).item() == pytest.approx(4.0)
    assert uniformity(torch.eye(2), t=1).item() == pytest.approx(-2.0)


def test_equal_texts_are_aligned_and_not_uniform():
    same = torch.ones(5, 3)
    assert alignment(same, 2 * same).item() == 0.0
    assert uniformity(same).item() == pytest.approx(0.0, abs=1e-6)


def test_random_directions_come_near_the_bound_of_the_paper():
    assert uniformity(torch.randn(500, 256)).item() == pytest.approx(-4.0, abs=0.1)
    assert alignment(torch.randn(500, 256), torch.randn(500, 256)).item() == pytest.approx(2, 0.02)


def test_uniformity_moves_towards_its_minimum_by_its_gradient():
    points = torch.tensor([[1.0, 0.1], [1.0, -0.1]], requires_grad=True)
    uniformity(points).backward()
    apart = (points - points.grad).detach()
    assert uniformity(apart) < uniformity(points)
    assert math.isfinite(points.grad.norm())


def test_wrong_shapes_are_clear_errors():
    with pytest.raises(ValueError, match=r"two sides.*\(2, 3\) and \(1, 3\)"):
        alignment(torch.ones(2, 3), torch.ones(1, 3))
    with pytest.raises(ValueError, match="at least two embeddings, but got 1"):
        uniformity(torch.ones(1, 3))


def test_anisotropy_is_the_mean_cosine_of_all_pairs():
    points = torch.randn(30, 8) + 0.5
    unit = F.normalize(points, dim=1)
    pairs = (unit @ unit.T)[torch.ones(30, 30).triu(1) > 0]
    torch.testing.assert_close(anisotropy(points), pairs.mean())
    assert anisotropy(torch.ones(5, 3)).item() == pytest.approx(1.0)
    assert anisotropy(torch.randn(500, 256)).item() == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_the_effective_rank_of_equal_directions_is_their_number(rank):
    rotation = torch.linalg.qr(torch.randn(10, 10)).Q
    points = torch.cat([torch.eye(10)[:rank] @ rotation] * 4)  # each direction four times
    assert effective_rank(points).item() == pytest.approx(rank, abs=1e-4)
    assert effective_rank(100 * points).item() == pytest.approx(rank, abs=1e-4)


def test_the_effective_rank_lies_between_1_and_the_dimension():
    assert 1 < effective_rank(torch.randn(50, 8) + 2).item() < 8
    assert effective_rank(torch.zeros(4, 4)).item() == 0


def test_nothing_to_measure_is_an_error():
    with pytest.raises(ValueError, match="at least two embeddings, but got 1"):
        anisotropy(torch.ones(1, 3))
    with pytest.raises(ValueError, match="at least one embedding"):
        effective_rank(torch.ones(0, 3))
