"""`plain_transformers` takes this package out of transformers' registries, and puts it back."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel, NemotronConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llm2vec_pl.bidirectional import make_bidirectional, plain_transformers
from llm2vec_pl.encoder.packed_attention import install_packing


@pytest.fixture
def model():
    config = NemotronConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    install_packing()
    return make_bidirectional(AutoModel.from_config(config).eval())


def test_masks_and_attention_are_transformers_own_and_come_back(model):
    before = (ALL_MASK_ATTENTION_FUNCTIONS["sdpa"], ALL_ATTENTION_FUNCTIONS["sdpa"])
    with plain_transformers():
        assert ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] is sdpa_mask
        assert ALL_ATTENTION_FUNCTIONS["sdpa"].__module__.startswith("transformers")
    assert (ALL_MASK_ATTENTION_FUNCTIONS["sdpa"], ALL_ATTENTION_FUNCTIONS["sdpa"]) == before


def test_they_come_back_after_an_error(model):
    before = ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    with pytest.raises(ZeroDivisionError), plain_transformers():
        _ = 1 / 0
    assert ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] is before


def test_results_are_those_of_before(model):
    ids = torch.arange(10).view(1, 10)
    first = model(ids).last_hidden_state
    with plain_transformers(), torch.no_grad():
        model(ids)
    torch.testing.assert_close(model(ids).last_hidden_state, first)
