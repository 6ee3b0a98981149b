import torch
from hypothesis import given
from hypothesis import strategies as st

from llm2vec_pl.use.server.request import Asked
from llm2vec_pl.use.server.shares import Job, least_tokens, next_share


def job(*lengths: int, dimensions: int | None = None) -> Job:
    asked = Asked([f"text {i}" for i in range(len(lengths))], dimensions=dimensions)
    return Job(("asker", 0), asked, "", list(lengths), deadline=1e9)


def places(jobs: list[Job], budget: int) -> dict[int, list[int]]:
    return {jobs.index(each): own for each, own in next_share(jobs, budget)}


def test_requests_that_wait_are_encoded_together():
    assert places([job(10), job(10, 10), job(10)], 100) == {0: [0], 1: [0, 1], 2: [0]}


def test_a_single_text_does_not_wait_for_all_of_a_large_request():
    assert places([job(*[10] * 50), job(10)], 40) == {0: [0, 1, 2], 1: [0]}


def test_a_share_goes_on_where_the_last_one_ended():
    large = job(*[10] * 5)
    large.add(torch.ones(2, 4))
    assert places([large], 20) == {0: [2, 3]}


def test_a_text_longer_than_the_budget_goes_alone():
    assert places([job(99), job(1)], 10) == {0: [0]}
    assert places([job(1), job(99)], 10) == {0: [0]}


def test_the_least_tokens_are_those_of_each_next_text():
    started = job(10, 20)
    started.add(torch.ones(1, 4))
    assert least_tokens([started, job(5)]) == 25


def test_an_answer_is_cut_and_then_normalised():
    cut = job(1, 2, dimensions=2)
    cut.add(torch.tensor([[3.0, 4.0, 5.0]]))
    assert not cut.is_complete
    cut.add(torch.tensor([[0.0, 2.0, 9.0]]))
    assert cut.is_complete
    embeddings, tokens = cut.answer()
    torch.testing.assert_close(torch.from_numpy(embeddings), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    assert tokens == 3


@given(
    st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=9), min_size=1, max_size=6),
    st.integers(1, 100),
)
def test_shares_cover_each_text_once_and_keep_to_the_budget(lengths, budget):
    jobs = [job(*each) for each in lengths]
    while left := [each for each in jobs if not each.is_complete]:
        share = next_share(left, budget)
        tokens = [each.lengths[place] for each, own in share for place in own]
        assert sum(tokens) <= budget or len(tokens) == 1
        for each, own in share:
            assert own == list(range(each.done, each.done + len(own)))
            each.add(torch.ones(len(own), 2))
    assert [each.done for each in jobs] == [len(each) for each in lengths]
