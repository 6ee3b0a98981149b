import copy
from types import SimpleNamespace

import pytest
import torch
from architecture_sample import marks
from test_architectures import (
    ARCHITECTURES,
    _one_thread,  # noqa: F401 - a fixture
    bidirectional_lm,
)
from test_packed_attention import padded_batch
from torch.nn.functional import scaled_dot_product_attention

from llm2vec_pl.decoder.head import split_causal_lm
from llm2vec_pl.encoder import short_attention as short
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.packed_attention import can_pack, packed_states
from llm2vec_pl.encoder.packing import pack_texts
from llm2vec_pl.encoder.short_attention import (
    LONGEST,
    attention_as_on_a_gpu,
    for_short_texts,
    is_short,
    short_attention,
)

BOTH_WAYS = SimpleNamespace(is_causal=False, training=True)


def states(length=7, heads=6, groups=2, dtype=torch.float32):
    """Query, key and value of three texts."""
    torch.manual_seed(0)
    sizes = [heads, groups, groups]
    return [torch.randn(3, n, length, 8, dtype=dtype, requires_grad=True) for n in sizes]


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_output_and_gradients_are_those_of_pytorchs_attention(groups, scaling):
    query, key, value = states(groups=groups)
    ours = short_attention(query, key, value, scaling)
    theirs = scaled_dot_product_attention(query, key, value, scale=scaling, enable_gqa=True)
    torch.testing.assert_close(ours, theirs.transpose(1, 2))
    weight = torch.randn_like(ours)
    of_ours = torch.autograd.grad((ours * weight).sum(), (query, key, value))
    of_theirs = torch.autograd.grad((theirs.transpose(1, 2) * weight).sum(), (query, key, value))
    for one, other in zip(of_ours, of_theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_in_bfloat16_it_differs_from_pytorchs_attention_by_rounding_only():
    query, key, value = states(length=40, dtype=torch.bfloat16)
    exact = scaled_dot_product_attention(*(x.float() for x in (query, key, value)), enable_gqa=True)
    error = (short_attention(query, key, value).transpose(1, 2) - exact).abs().max()
    assert error < 0.05


def test_dropout_leaves_the_expected_output_and_drops_weights_not_values():
    query, key, value = states()
    usual = short_attention(query, key, value)
    drawn = torch.stack([short_attention(query, key, value, None, 0.3) for _ in range(2000)])
    assert (drawn.mean(0) - usual).abs().max() < 0.15
    assert not torch.equal(drawn[0], drawn[1])
    assert (drawn[0] != 0).all()  # a dropped value would be 0
    torch.testing.assert_close(short_attention(query, key, value, None, 1.0), usual * 0)


def test_it_is_for_training_in_half_precision_on_a_cpu_with_every_token_seen():
    query, *_ = states(dtype=torch.bfloat16)
    assert is_short(BOTH_WAYS, query, None)
    assert is_short(BOTH_WAYS, query, None, dropout=0.1)
    assert not is_short(BOTH_WAYS, query.float(), None)
    with torch.autocast("cpu", torch.bfloat16):
        assert is_short(BOTH_WAYS, query.float(), None)
    assert not is_short(SimpleNamespace(is_causal=True, training=True), query, None)
    assert not is_short(SimpleNamespace(is_causal=False, training=False), query, None)
    assert not is_short(BOTH_WAYS, query, None, is_causal=True)
    assert not is_short(BOTH_WAYS, query, torch.ones(7, 7))
    assert not is_short(BOTH_WAYS, query, None, softcap=30.0)
    assert not is_short(BOTH_WAYS, query.detach(), None)
    assert not is_short(BOTH_WAYS, query.to("meta"), None)
    assert not is_short(BOTH_WAYS, states(LONGEST + 1, dtype=torch.bfloat16)[0], None)
    with torch.no_grad():
        assert not is_short(BOTH_WAYS, query, None)
    with attention_as_on_a_gpu():
        assert not is_short(BOTH_WAYS, query, None)


@pytest.mark.parametrize("model_type", [pytest.param(m, marks=marks(m)) for m in ARCHITECTURES])
def test_an_architecture_that_packs_has_the_states_and_gradients_of_the_usual_attention(
    model_type, monkeypatch
):
    """In float32, where rounding hides nothing."""
    decoder, _ = split_causal_lm(copy.deepcopy(bidirectional_lm(model_type, "sdpa")))
    if not can_pack(decoder):
        pytest.skip("does not pack")
    monkeypatch.setattr(short, "computed_dtype", lambda states: torch.bfloat16)
    decoder.train()
    ids, mask = padded_batch()
    found = []
    for longest in (LONGEST, 0):
        monkeypatch.setattr(short, "LONGEST", longest)
        decoder.zero_grad()
        torch.manual_seed(0)
        states_of_texts = packed_states(decoder, ids, pack_texts(mask))
        weight = torch.randn(states_of_texts.shape, generator=torch.Generator().manual_seed(1))
        (states_of_texts * weight).sum().backward()
        embedding = decoder.get_input_embeddings().weight
        found.append((states_of_texts.detach(), embedding.grad.clone()))
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.abs().max()


def test_it_compiles_into_one_graph():
    def usual(*states, **kwargs):
        raise AssertionError("the texts are short")

    module = torch.nn.Module()
    module.is_causal = False
    query, key, value = states(dtype=torch.bfloat16)
    attend = torch.compile(for_short_texts(usual), fullgraph=True, backend="eager")
    output, _ = attend(module, query, key, value, None, scaling=0.5)
    torch.testing.assert_close(output, short_attention(query, key, value, 0.5))


@pytest.mark.parametrize("texts", [["a b c", "d e f"], ["a b c", "a", "d e", "f g"]])
def test_an_encoder_uses_it_in_training_with_the_gradient_of_the_usual_attention(
    monkeypatch, texts
):
    calls = []

    def counted(query, *others):
        calls.append(query.shape)
        return short_attention(query, *others)

    gradients = []
    for longest in (LONGEST, 0):
        monkeypatch.setattr(short, "LONGEST", longest)
        monkeypatch.setattr(short, "short_attention", counted)
        encoder = Encoder("tiny", lora_rank=0, dtype="bfloat16").load()
        encoder(encoder.tokenize(texts)).sum().backward()
        gradients.append(encoder.decoder.get_input_embeddings().weight.grad)
    assert calls
    one, other = (gradient.float() for gradient in gradients)
    assert (one - other).norm() < 0.05 * other.norm()
