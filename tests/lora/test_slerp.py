import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2vec_pl.lora.slerp import NEARLY_PARALLEL, slerp_coefficients


@given(st.floats(0.05, 3.09), st.floats(0, 1))
def test_between_vectors_of_length_one_the_result_has_length_one_and_the_asked_angle(angle, t):
    if abs(math.cos(angle)) > NEARLY_PARALLEL:
        return
    a, b = slerp_coefficients(math.cos(angle), 1.0, 1.0, t)
    x, y = a + b * math.cos(angle), b * math.sin(angle)  # the first vector is (1, 0)
    assert math.hypot(x, y) == pytest.approx(1)
    assert math.atan2(y, x) == pytest.approx(t * angle, abs=1e-6)


@pytest.mark.parametrize("t", [0.0, 1.0])
def test_at_both_ends_it_is_that_tensor(t):
    assert slerp_coefficients(0.3, 2.0, 5.0, t) == pytest.approx((1 - t, t), abs=1e-12)


@pytest.mark.parametrize(
    ("dot", "first", "second"),
    [(0.0, 0.0, 1.0), (0.0, 0.0, 0.0), (6.0, 2.0, 3.0), (-6.0, 2.0, 3.0), (1.0 + 1e-12, 1.0, 1.0)],
    ids=["one is zero", "both are zero", "parallel", "opposite", "rounded above 1"],
)
def test_without_an_arc_it_is_the_line(dot, first, second):
    assert slerp_coefficients(dot, first, second, 0.25) == (0.75, 0.25)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_line_joins_the_arc_without_a_jump(sign):
    """Almost parallel, both give nearly the same; almost opposite, the arc has coefficients too."""
    a, b = slerp_coefficients(sign * (NEARLY_PARALLEL - 1e-9), 1.0, 1.0, 0.5)
    if sign > 0:
        assert (a, b) == pytest.approx((0.5, 0.5), rel=1e-3)
    else:
        assert 1 < a < 40
        assert a == pytest.approx(b)
