"""A process for each device."""

from __future__ import annotations

import copy
import os
import signal

import pytest
import torch

from llm2vec_pl import Encoder, UserError

TEXTS = [f"text number {i} is about {'rivers ' * (i % 7)}and lakes" for i in range(50)]

pytestmark = pytest.mark.slow  # processes


@pytest.fixture(scope="module")
def encoder(llama_folder):
    return Encoder(llama_folder, lora_rank=0, prompts={"query": "Find: "}).load().eval()


def test_several_processes_give_the_embeddings_of_one_until_one_of_them_dies(encoder):
    with encoder.start_pool(["cpu", "cpu"]) as pool:
        for how in ({}, {"prompt_name": "query"}, {"normalize_embeddings": True}):
            shared = encoder.encode(TEXTS, device=pool, **how)
            torch.testing.assert_close(shared, encoder.encode(TEXTS, **how), atol=1e-5, rtol=1e-5)
        assert encoder.encode([], device=pool).shape == (0, 32)
        with pytest.raises(UserError, match="holds another encoder"):
            copy.copy(encoder).encode(TEXTS, device=pool)
        os.kill(next(iter(pool._processes._processes)), signal.SIGKILL)
        with pytest.raises(UserError, match="ended before its work did"):
            # The other process may do all of the work before the death is noticed.
            [encoder.encode(TEXTS, device=pool) for _ in range(1000)]
        with pytest.raises(UserError, match="ended before its work did"):
            encoder.encode(TEXTS, device=pool)


def test_a_list_of_devices_is_a_pool_for_one_call(encoder):
    together = encoder.encode(TEXTS, device=["cpu"])
    torch.testing.assert_close(together, encoder.encode(TEXTS), atol=1e-5, rtol=1e-5)
