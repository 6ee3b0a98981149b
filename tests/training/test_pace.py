import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm2vec_pl.training.pace import Pace


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(
    first=st.integers(0, 10_000),
    done=st.integers(1, 300),
    more=st.integers(0, 1000),
    seconds=st.floats(1e-3, 1e3),
    tokens=st.integers(1, 10**6),
)
def test_at_a_constant_speed_rate_and_time_left_are_right(first, done, more, seconds, tokens):
    clock = Clock()
    pace = Pace(first, clock)
    for step in range(first + 1, first + done + 1):
        clock.now += seconds
        pace.count(tokens, step)
    assert pace.seconds_left(first + done, first + done + more) == pytest.approx(more * seconds)
    assert pace.tokens_per_second() == pytest.approx(tokens / seconds)


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=20))
def test_validations_do_not_slow_the_tokens_but_count_in_the_time_left(validations):
    clock = Clock()
    pace = Pace(0, clock)
    pace.count(5, 1)
    for step, validation in enumerate(validations, 2):
        pace.pause()
        clock.now += validation
        pace.pause()  # a second note changes nothing
        pace.go_on()
        pace.go_on()
        clock.now += 2.0
        pace.count(100, step)
    steps = len(validations)
    took = sum(validations) + 2.0 * steps
    assert pace.seconds_left(steps + 1, 2 * steps + 1) == pytest.approx(took)
    assert pace.tokens_per_second() == pytest.approx((5 + 100 * steps) / (2.0 * steps))


def test_the_rate_is_that_since_the_last_line():
    clock = Clock()
    pace = Pace(0, clock)
    for step, (seconds, rate) in enumerate([(10.0, 10.0), (1.0, 100.0), (100.0, 1.0)], 1):
        clock.now += seconds
        pace.count(100, step)
        assert pace.tokens_per_second() == pytest.approx(rate)


def test_the_first_step_which_is_slower_does_not_count_once_there_are_more():
    clock = Clock()
    pace = Pace(0, clock)
    clock.now += 100.0
    pace.count(1, 1)
    assert pace.seconds_left(1, 11) == pytest.approx(1000.0)
    for step in (2, 3):
        clock.now += 1.0
        pace.count(1, step)
    assert pace.seconds_left(3, 11) == pytest.approx(8.0)
