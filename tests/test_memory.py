"""The head's memory: a vocabulary of 128k must not decide it. Each measurement has its own process."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from torch import nn
import torch.nn.functional as F
from llm2vec_pl.losses import next_token_loss
from llm2vec_pl.objectives.next_token import NextTokenObjective
B, L, D, V = 4, 512, 2048, 128_256
torch.manual_seed(0)
torch.set_num_threads(2)
head = nn.Linear(D, V, bias=False, dtype=torch.bfloat16).requires_grad_(False)
states = torch.randn(B, L, D, requires_grad=True)
ids = torch.randint(0, V, (B, L))
labels = ids.masked_fill(torch.rand(B, L) >= 0.2, -100)
states.sum().backward()  # the decoder's own gradient has its place already
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
cast = lambda x: head(x.bfloat16())
if sys.argv[1] == "ours":
    loss, _ = next_token_loss(states, labels, cast, chunk_size=NextTokenObjective.logits_at_once // V)
else:
    loss = F.cross_entropy(cast(states)[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
loss.backward()
print(peak() - before, loss.item())
"""


def megabytes_and_loss(how: str) -> tuple[float, float]:
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    ).stdout
    megabytes, loss = output.split()
    return float(megabytes), float(loss)


@pytest.mark.slow
def test_the_head_adds_at_most_300_megabytes_where_the_plain_way_adds_gigabytes():
    ours, loss = megabytes_and_loss("ours")
    plain, expected = megabytes_and_loss("plain")
    print(f"head over the decoder: ours {ours:.0f} MB, plain {plain:.0f} MB")
    assert ours <= 300
    assert plain > 1500
    assert loss == pytest.approx(expected, abs=1e-5)
