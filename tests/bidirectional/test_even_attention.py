"""The self-check asks what masks hide, not what a decoder looks at."""

import pytest
import torch
from tiny_models import tiny_causal_lm

from llm2vec_pl.bidirectional.switch import (
    BidirectionalityError,
    check_bidirectional,
    make_bidirectional,
)


def with_large_queries(model, times):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "q_proj" in name or "q_norm" in name:
                parameter.mul_(times)
    return model


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("dtype", "times"), [(torch.float16, 30), (torch.float32, 1000)])
def test_large_queries_are_no_causality(attention, dtype, times):
    """Most of their attention weights are too small for the number format."""
    model = make_bidirectional(with_large_queries(tiny_causal_lm("qwen3", attention), times))
    check_bidirectional(model.to(dtype))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_causal_decoder_with_large_queries_is_still_found(attention):
    model = with_large_queries(tiny_causal_lm("qwen3", attention), 30).half()
    with pytest.raises(BidirectionalityError, match="see only the tokens before"):
        check_bidirectional(model)


@pytest.mark.parametrize("name", ["llama", "gpt2", "openai-gpt", "gpt_neo", "mpt", "bloom"])
def test_a_causal_decoder_is_found_however_it_masks(name):
    """openai-gpt's mask adds -10,000 only."""
    with pytest.raises(BidirectionalityError, match="see only the tokens before"):
        check_bidirectional(tiny_causal_lm(name, "eager"))
