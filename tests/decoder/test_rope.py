"""Rotary positions that depend on a text's length depend on no other text."""

from __future__ import annotations

import copy
import functools
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saved_models import save_model, small_llama
from tiny_models import tiny_causal_lm

from llm2vec_pl.encoder.encoder import Encoder

CONTEXT = 16
"""Tokens beyond which the positions of these models change."""

ROPES = {
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [3.0] * 4,
        "original_max_position_embeddings": CONTEXT,
        "factor": 4.0,
        "rope_theta": 10000.0,
    },
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
}
LENGTHS = [3, 40, 16, 17, 9, 40, 60, 15]
TEXTS = ["few words", "word " * 30, "some more words than before", "one " * 20, "", "two " * 45]


@pytest.fixture(scope="module", params=ROPES)
def folder(request, tmp_path_factory):
    context = CONTEXT if request.param == "dynamic" else 4 * CONTEXT
    config = small_llama(rope_parameters=ROPES[request.param], max_position_embeddings=context)
    return str(save_model(config, tmp_path_factory.mktemp("rope") / request.param))


def rows(lengths=LENGTHS):
    """Random tokens under a mask, both (B, L), that begin alike."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 100, (max(lengths),), generator=generator).expand(len(lengths), -1)
    return ids, (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


@functools.cache
def first_embeddings(folder):
    """An encoder, and what other ones gave that had embedded nothing before."""
    fresh = [Encoder(folder, lora_rank=0).encode(text) for text in TEXTS]
    return Encoder(folder, lora_rank=0).load(), fresh


def own_states(folder, length, **options):
    """Of a text that is all that this encoder ever sees, (length, D)."""
    fresh = Encoder(folder, lora_rank=0, **options).load().eval()
    ids, mask = rows([length])
    with torch.no_grad():
        return fresh.hidden_states({"input_ids": ids, "attention_mask": mask})[0]


@pytest.mark.parametrize("padding_free", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_text_has_the_states_that_it_has_alone(folder, padding_free, bidirectional):
    options = {"padding_free": padding_free, "bidirectional": bidirectional}
    encoder = Encoder(folder, lora_rank=0, **options).load().eval()
    ids, mask = rows()
    with torch.no_grad():
        states = encoder.hidden_states({"input_ids": ids, "attention_mask": mask})
    for row, length in zip(states, LENGTHS, strict=True):
        expected = own_states(folder, length, **options)
        torch.testing.assert_close(row[:length], expected, atol=1e-5, rtol=0)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.permutations(range(len(TEXTS))), batch_size=st.integers(1, 6))
def test_a_text_embeds_alike_whatever_came_before_it(folder, order, batch_size):
    encoder, fresh = first_embeddings(folder)
    for _ in range(2):
        found = encoder.encode([TEXTS[i] for i in order], batch_size=batch_size)
        expected = torch.stack([fresh[i] for i in order])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_long_texts_do_have_other_positions(folder):
    """Otherwise the tests above would prove nothing."""
    # A causal decoder's states do not depend on what follows, but for the positions.
    lengths = (CONTEXT, 2 * CONTEXT)
    plain, scaled = (own_states(folder, n, bidirectional=False)[1:9] for n in lengths)
    assert (plain - scaled).abs().max() > 1e-4


def test_the_states_are_those_of_transformers_for_one_text(folder):
    encoder = Encoder(folder, lora_rank=0).load().eval()
    plain = copy.deepcopy(encoder)
    for module in plain.modules():
        vars(module).pop("forward", None)
    ids, mask = rows([40])
    batch = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad():
        assert torch.equal(encoder.hidden_states(batch), plain.hidden_states(batch))


def test_training_after_encoding_and_copies(folder):
    encoder = Encoder(folder, lora_dropout=0.0)
    before = encoder.encode(TEXTS)
    found = []
    for order in (TEXTS, TEXTS[::-1]):
        encoder.zero_grad()
        encoder(encoder.tokenize(order)).square().sum().backward()
        found.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * other.abs().max().item() + 1e-9, rtol=0)
    for each in (encoder, copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        torch.testing.assert_close(each.encode(TEXTS), before, atol=1e-5, rtol=0)


def test_threads_do_not_take_each_others_positions(folder):
    encoder = Encoder(folder, lora_rank=0).load()
    expected = encoder.encode(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(encoder.encode, TEXTS * 6))
    torch.testing.assert_close(torch.stack(found), expected.repeat(6, 1), atol=1e-5, rtol=0)


LONG = {"original_max_position_embeddings": CONTEXT, "rope_type": "longrope", "factor": 4.0}
PHIMOE = {"short_mscale": 1.0, "long_mscale": 1.3}


@pytest.mark.parametrize("name", ["phi3", "phimoe", "minicpm3"])
def test_architectures_that_come_with_longrope(name):
    from llm2vec_pl.decoder.rope import use_own_lengths

    sizes = {"phi3": 8, "phimoe": 8, "minicpm3": 4}
    factors = {"short_factor": [1.0] * sizes[name], "long_factor": [3.0] * sizes[name]}
    rope = {**LONG, **factors, "rope_theta": 10000.0, **(PHIMOE if name == "phimoe" else {})}
    model = tiny_causal_lm(name, "sdpa", rope_parameters=rope)
    ids, mask = rows()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        alone = [model(input_ids=ids[:1, :n]).logits[0] for n in LENGTHS]
        use_own_lengths(model)
        together = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    for row, expected, length in zip(together, alone, LENGTHS, strict=True):
        torch.testing.assert_close(row[:length], expected, atol=1e-4, rtol=0)
