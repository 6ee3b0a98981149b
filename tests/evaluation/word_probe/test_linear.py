import torch
from hypothesis import given
from hypothesis import strategies as st

from llm2vec_pl.evaluation.word_probe.linear import FastDropout


@given(st.floats(0.05, 0.9), st.integers(0, 100))
def test_dropout_drops_its_share_and_keeps_the_mean(p, seed):
    torch.manual_seed(seed)
    x = torch.ones(40, 500)
    found = FastDropout(p)(x.T)  # transposed, as the states of a shift are
    kept = found != 0
    assert abs(kept.float().mean() - (1 - p)) < 0.03
    torch.testing.assert_close(found[kept], torch.full_like(found[kept], 1 / (1 - p)))
    assert x.eq(1).all()  # the states on disk stay as they are


def test_in_evaluation_nothing_is_dropped():
    x = torch.rand(3, 4)
    assert torch.equal(FastDropout(0.5).eval()(x), x)
