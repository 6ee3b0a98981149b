import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from llm2vec_pl.objectives.distillation_losses import (
    correlation,
    cosine_distance,
    cosines,
    in_batch_kl,
    other_texts,
)

ALL = slice(0, 7)
DISTINCT = torch.arange(7)
WITH_A_COPY = torch.tensor([10, 11, 12, 11, 13, 14, 15])  # text 3 is text 1 again


@pytest.fixture
def student():
    return torch.randn(7, 5, requires_grad=True)


@pytest.fixture
def teacher():
    return torch.randn(7, 3)


def by_hand(student, teacher, text, others, temperature):
    scores = [
        F.cosine_similarity(embeddings[text], embeddings[others], dim=-1) / temperature
        for embeddings in (student, teacher)
    ]
    q, p = (s.exp() / s.exp().sum() for s in scores)
    return (p * (p / q).log()).sum()


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize("ids", [DISTINCT, WITH_A_COPY])
def test_each_text_is_compared_with_all_others_once(student, teacher, ids, temperature):
    first, ignored = other_texts(ids, ALL)
    found = in_batch_kl(student, teacher, temperature, ignored, ALL)
    kept = [i for i in range(7) if i != 3 or ids is DISTINCT]
    assert first.nonzero()[:, 0].tolist() == kept
    for text in kept:
        others = [other for other in kept if other != text]
        expected = by_hand(student, teacher, text, others, temperature)
        torch.testing.assert_close(found[text], expected, atol=1e-5, rtol=1e-4)


def test_the_gradient_is_that_of_the_formula(student, teacher):
    _, ignored = other_texts(WITH_A_COPY, ALL)
    kept = [0, 1, 2, 4, 5, 6]
    loss = in_batch_kl(student, teacher, 0.2, ignored, ALL)[kept].sum()
    (found,) = torch.autograd.grad(loss, student)
    each = [by_hand(student, teacher, i, [j for j in kept if j != i], 0.2) for i in kept]
    (expected,) = torch.autograd.grad(torch.stack(each).sum(), student)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not found[3].any()


class Given(nn.Module):
    """A model whose embeddings are given."""

    def forward(self, features):
        return features


def test_similarities_have_the_loss_and_gradient_of_sentence_transformers(student, teacher):
    from sentence_transformers.losses import DistillKLDivLoss

    temperature = 0.3
    _, ignored = other_texts(DISTINCT, ALL)
    ours = in_batch_kl(student, teacher, temperature, ignored, ALL).mean()
    # Its candidates are columns: the others of each text.
    others = torch.tensor([[j for j in range(7) if j != i] for i in range(7)])
    unit, target = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    columns = [{"sentence_embedding": x} for x in (unit, *unit[others].unbind(1))]
    labels = (target[:, None] * target[others]).sum(-1)
    theirs = DistillKLDivLoss(Given(), temperature=temperature)(columns, labels)
    theirs = theirs / temperature**2
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, student), torch.autograd.grad(theirs, student)
    )


def test_embeddings_have_the_loss_and_gradient_of_sentence_transformers(student):
    from sentence_transformers.losses import MSELoss

    target = torch.randn(7, 5)
    ours = cosine_distance(student, target).mean()
    unit = F.normalize(student, dim=-1)
    squares = MSELoss(Given())([{"sentence_embedding": unit}], F.normalize(target, dim=-1))
    theirs = squares * 5 / 2  # |u - v|^2 = 2 - 2 cos, and it takes the mean over elements
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, student), torch.autograd.grad(theirs, student)
    )


def test_a_student_that_ranks_as_its_teacher_has_no_loss(teacher):
    first, ignored = other_texts(DISTINCT, ALL)
    turned = 3 * teacher @ torch.linalg.qr(torch.randn(3, 3)).Q
    assert in_batch_kl(turned, teacher, 0.05, ignored, ALL).abs().max() < 1e-4
    assert cosine_distance(5 * teacher, teacher).abs().max() < 1e-6
    assert first.all()


@pytest.mark.parametrize("ids", [[1], [1, 1], [1, 2]])
def test_a_text_with_nothing_to_compare_has_a_loss_and_gradient_of_0(ids):
    student = torch.randn(len(ids), 4, requires_grad=True)
    rows = slice(0, len(ids))
    _, ignored = other_texts(torch.tensor(ids), rows)
    loss = in_batch_kl(student, torch.ones(len(ids), 2), 0.05, ignored, rows)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert loss.abs().max() < 1e-6
    assert gradient.abs().max() < 1e-6


def test_autocast_leaves_similarities_in_full_precision(student):
    with torch.autocast("cpu", torch.bfloat16):
        scores = cosines(student, ALL)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, cosines(student, ALL))


def test_the_correlation_is_pearsons_over_pairs_of_different_texts(student, teacher):
    _, ignored = other_texts(WITH_A_COPY, ALL)
    x, y = cosines(student, ALL), cosines(teacher, ALL)
    expected = stats.pearsonr(x[~ignored].detach(), y[~ignored]).statistic
    assert correlation(x, y, ~ignored).item() == pytest.approx(expected, abs=1e-5)
    assert correlation(x, torch.ones(7, 7), ~ignored).item() == 0.0
