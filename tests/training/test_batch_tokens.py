import torch

from llm2vec_pl.training.batch_tokens import token_batches, token_count

MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])


def test_real_tokens_are_counted_and_padding_if_asked_for():
    part = {"input_ids": MASK, "attention_mask": MASK}
    assert token_count(part) == 4
    assert token_count(part, padded=True) == 6
    pairs = {"query": part, "positive": part, "task": "nq"}
    assert token_count(pairs) == 8
    assert token_batches(pairs) == [part, part]


def test_a_device_is_not_asked():
    """The lengths that the host knows count; without them, the shape of the mask does."""
    on_device = {"attention_mask": MASK.to("meta")}
    assert token_count({**on_device, "text_lengths": (3, 1)}) == 4
    assert token_count(on_device) == 6


def test_what_is_no_batch_of_tokens_has_none():
    assert token_count({"image": MASK}) == token_count([MASK]) == token_count(None) == 0
