import pytest
import torch
from torch import nn

from llm2vec_pl.objectives.muon import Muon, orthogonal

SHAPES = [(8, 24), (24, 8), (16, 16)]
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024


def pytorchs(matrices, **options):
    return torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **options)


def trained(kind, steps=5, weight_decay=0.1):
    """Matrices after some steps towards zero, along gradients that differ in size."""
    torch.manual_seed(0)
    matrices = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    optimizer = kind(matrices, lr=0.02, weight_decay=weight_decay)
    for step in range(steps):
        for matrix in matrices:
            matrix.grad = 10.0**-step * matrix.detach() + 0.1 * torch.randn_like(matrix)
        optimizer.step()
    return [matrix.detach() for matrix in matrices], optimizer


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_in_bfloat16_it_is_pytorchs_own(weight_decay, monkeypatch):
    monkeypatch.setattr("llm2vec_pl.objectives.muon.multiplies_in_bfloat16", lambda: True)
    own, _ = trained(Muon, weight_decay=weight_decay)
    theirs, _ = trained(pytorchs, weight_decay=weight_decay)
    for got, expected in zip(own, theirs, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_in_float32_it_differs_from_bfloat16_by_rounding_alone(monkeypatch):
    monkeypatch.setattr("llm2vec_pl.objectives.muon.multiplies_in_bfloat16", lambda: False)
    exact, _ = trained(Muon)
    theirs, _ = trained(pytorchs)
    for got, expected, start in zip(exact, theirs, trained(Muon, steps=0)[0], strict=True):
        assert (got - expected).norm() < 0.05 * (got - start).norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_come_near_one(shape, monkeypatch):
    monkeypatch.setattr("llm2vec_pl.objectives.muon.multiplies_in_bfloat16", lambda: False)
    torch.manual_seed(0)
    matrix = orthogonal(torch.randn(shape), COEFFICIENTS, 5, 1e-7)
    assert matrix.shape == shape
    assert matrix.dtype == torch.float32
    values = torch.linalg.svdvals(matrix)
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_a_zero_gradient_moves_nothing_but_by_weight_decay():
    matrix = nn.Parameter(torch.ones(4, 4))
    matrix.grad = torch.zeros_like(matrix)
    Muon([matrix], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(matrix.detach(), torch.full((4, 4), 0.95))


def test_a_matrix_without_a_gradient_stays():
    matrix = nn.Parameter(torch.ones(4, 4))
    optimizer = Muon([matrix], lr=0.1)
    assert optimizer.step(lambda: 3.0) == 3.0
    assert torch.equal(matrix.detach(), torch.ones(4, 4))
    assert not optimizer.state


def test_it_goes_on_from_the_state_of_pytorchs_own():
    _, theirs = trained(pytorchs)
    _, own = trained(Muon, steps=0)
    own.load_state_dict(theirs.state_dict())
    assert all(state["momentum_buffer"].any() for state in own.state.values())
