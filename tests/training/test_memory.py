"""Peak memory: neither the vocabulary nor the batch decides it. Each measurement has a process."""

import os
import subprocess
import sys

import pytest

HEAD = """
import resource, sys, torch
from torch import nn
import torch.nn.functional as F
from llm2vec_pl.objectives.losses import next_token_loss
from llm2vec_pl.objectives.next_token import NextTokenObjective
B, L, D, V = 4, 512, int(sys.argv[2]), 128_256
torch.manual_seed(0)
torch.set_num_threads(2)
# Not in bfloat16, which takes minutes on a CPU without instructions for it.
head = nn.Linear(D, V, bias=False).requires_grad_(False)
states = torch.randn(B, L, D, requires_grad=True)
ids = torch.randint(0, V, (B, L))
labels = ids.masked_fill(torch.rand(B, L) >= 0.2, -100)
states.sum().backward()  # the decoder's own gradient has its place already
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
if sys.argv[1] == "ours":
    size = NextTokenObjective.logits_at_once // V
    loss, _ = next_token_loss(states, labels, head, chunk_size=size, trains_head=False)
else:
    loss = F.cross_entropy(head(states)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
loss.backward()
print(peak() - before, loss.item())
"""


def megabytes_and_loss(how: str, hidden_size: int) -> tuple[float, float]:
    output = subprocess.run(
        [sys.executable, "-c", HEAD, how, str(hidden_size)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    megabytes, loss = output.split()
    return float(megabytes), float(loss)


@pytest.mark.exhaustive
@pytest.mark.parametrize("hidden_size", [256, 2048])
def test_the_head_adds_at_most_300_megabytes_where_the_plain_way_adds_gigabytes(hidden_size):
    """The vocabulary's logits take the memory, the hidden size the time."""
    ours, loss = megabytes_and_loss("ours", hidden_size)
    plain, expected = megabytes_and_loss("plain", hidden_size)
    print(f"head over the decoder: ours {ours:.0f} MB, plain {plain:.0f} MB")
    assert ours <= 300
    assert plain > 1500
    assert loss == pytest.approx(expected, abs=1e-5)


BATCH = """
import resource, sys, torch
from llm2vec_pl import Contrastive, Encoder
torch.manual_seed(0)
torch.set_num_threads(1)
pairs = int(sys.argv[1])
module = Contrastive(Encoder("tiny", lora_dropout=0.0), chunk_size=32)
module.configure_model()
ids = torch.randint(5, 8000, (pairs, 8))
ones = torch.ones_like(ids)
part = {"input_ids": ids, "attention_mask": ones, "pooling_mask": ones}
module.loss({"query": part, "positive": {**part, "input_ids": ids.flip(1)}}).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def megabytes(pairs: int) -> float:
    """With memory given back as soon as it is free, which glibc puts off for small pieces."""
    command = [sys.executable, "-c", BATCH, str(pairs)]
    give_back = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=give_back)
    return float(result.stdout)


@pytest.mark.exhaustive
@pytest.mark.parametrize("pairs", [512, 2048])
def test_in_chunks_a_large_batch_costs_what_one_of_64_does(pairs):
    small, large = megabytes(64), megabytes(pairs)
    print(f"64 pairs {small:.0f} MB, {pairs:,} pairs {large:.0f} MB")
    assert large <= 1.3 * small
