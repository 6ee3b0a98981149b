import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llm2vec_pl.objectives.losses import next_token_loss
from llm2vec_pl.objectives.masking import IGNORED

B, L, D, V = 3, 17, 8, 50


def states_labels_head():
    torch.manual_seed(0)
    states = torch.randn(B, L, D, requires_grad=True)
    labels = torch.randint(0, V, (B, L)).masked_fill(torch.rand(B, L) < 0.7, IGNORED)
    return states, labels, nn.Linear(D, V, bias=False)


def plain(states, labels, head):
    """Cross entropy over all positions' logits, as a language model computes it."""
    logits = head(states)[:, :-1].reshape(-1, V)
    return F.cross_entropy(logits.float(), labels[:, 1:].reshape(-1), ignore_index=IGNORED)


@pytest.mark.parametrize("chunk_size", [1, 4, 1000])
def test_equals_plain_cross_entropy_and_its_gradients(chunk_size):
    states, labels, head = states_labels_head()
    expected = plain(states, labels, head)
    wanted = torch.autograd.grad(expected, [states, head.weight])
    loss, _ = next_token_loss(states, labels, head, chunk_size=chunk_size)
    got = torch.autograd.grad(loss, [states, head.weight])
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    for gradient, reference in zip(got, wanted, strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk_size", [1, 4, 1000])
def test_a_frozen_head_gives_the_same_gradient(chunk_size):
    states, labels, head = states_labels_head()
    head.requires_grad_(False)
    expected = 3 * plain(states, labels, head)
    (wanted,) = torch.autograd.grad(expected, states)
    loss, _ = next_token_loss(states, labels, head, chunk_size=chunk_size, trains_head=False)
    (got,) = torch.autograd.grad(3 * loss, states)
    torch.testing.assert_close(3 * loss, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("trains_head", "times"), [(True, 2), (False, 1)])
def test_a_frozen_head_computes_no_logits_twice(trains_head, times):
    states, labels, head = states_labels_head()
    rows = []

    def counting_head(chunk):
        rows.append(len(chunk))
        return head(chunk)

    loss, _ = next_token_loss(states, labels, counting_head, None, 5, trains_head=trains_head)
    loss.backward()
    assert sum(rows) == times * (labels[:, 1:] != IGNORED).sum()


def test_a_frozen_head_in_half_precision_gives_gradients_in_it():
    states, labels, head = states_labels_head()
    states = states.detach().bfloat16().requires_grad_()
    head = head.bfloat16().requires_grad_(False)
    for trains_head in (True, False):
        loss, _ = next_token_loss(states, labels, head, trains_head=trains_head)
        (gradient,) = torch.autograd.grad(loss, states)
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(loss, plain(states, labels, head), atol=1e-5, rtol=0)
        exact = torch.autograd.grad(plain(states.float(), labels, head.float()), states)[0]
        torch.testing.assert_close(gradient, exact, atol=2e-3, rtol=2e-2)
        head = head.bfloat16()


@pytest.mark.parametrize("trains_head", [True, False])
def test_counts_the_labels_predicted_right(trains_head):
    states, labels, head = states_labels_head()
    best = head(states).argmax(-1)[:, :-1]
    expected = (best == labels[:, 1:]).sum()
    for chunk_size in (2, 1000):
        got = next_token_loss(states, labels, head, chunk_size=chunk_size, trains_head=trains_head)
        assert got[1] == expected
    labels[:, 1:] = best
    assert next_token_loss(states, labels, head)[1] == B * (L - 1)


def test_without_a_label_loss_and_gradient_are_zero():
    states, labels, head = states_labels_head()
    loss, correct = next_token_loss(states, torch.full_like(labels, IGNORED), head)
    loss.backward()
    assert loss == 0
    assert correct == 0
    assert (states.grad == 0).all()


def test_a_label_on_the_first_token_is_ignored():
    states, labels, head = states_labels_head()
    loss, _ = next_token_loss(states, labels, head)
    labels[:, 0] = 7
    assert next_token_loss(states, labels, head)[0] == loss


def test_the_loss_of_bfloat16_states_is_computed_in_float32():
    states, labels, head = states_labels_head()
    states, head = states.bfloat16(), head.bfloat16()
    loss, _ = next_token_loss(states, labels, head)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, plain(states, labels, head), atol=1e-5, rtol=0)


def test_only_labelled_positions_reach_the_head_and_in_chunks():
    states, labels, head = states_labels_head()
    sizes = []

    def counting_head(chunk):
        sizes.append(len(chunk))
        return head(chunk)

    with torch.no_grad():
        next_token_loss(states, labels, counting_head, chunk_size=5)
    assert sum(sizes) == (labels[:, 1:] != IGNORED).sum()
    assert max(sizes) == 5


def test_a_given_count_divides_the_sum():
    states, labels, head = states_labels_head()
    count = (labels[:, 1:] != IGNORED).sum()
    mean, _ = next_token_loss(states, labels, head)
    half, _ = next_token_loss(states, labels, head, target_count=2 * count)
    torch.testing.assert_close(half, mean / 2)
