"""Texts laid end to end have the states that they have alone, or the decoder says it cannot."""

import copy
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from architecture_sample import marks
from saved_models import small_llama
from test_architectures import (
    ARCHITECTURES,
    HYBRIDS,
    _one_thread,  # noqa: F401 - a fixture
    bidirectional_lm,
    states,
)
from tiny_models import tiny_causal_lm, words
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from llm2vec_pl.bidirectional.switch import make_bidirectional
from llm2vec_pl.decoder.head import split_causal_lm
from llm2vec_pl.encoder import packed_attention as attention
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.packed_attention import PackedMask, can_pack, packed_states, text_by_text
from llm2vec_pl.encoder.packing import pack_texts

OWN_ATTENTION = words(
    """axk2 deepseek_v32 doge dots3_note dots3_note_text falcon glm_moe_dsa inkling_text qwen4_exp
    qwen4_exp_text"""
)
"""Look into the mask themselves, or do not call attention through transformers' registry."""

LENGTHS = [5, 1, 3, 12, 5, 3]
TEXTS = ["a text", "", "another text, somewhat longer than the first one", "three small words"]
LONGER = ["this one has quite a few more words than any other of them", "end", "of it"]


def padded_batch(lengths=LENGTHS):
    """Random tokens under a mask, both (B, L), with something other than 0 as padding."""
    ids = torch.randint(5, 100, (len(lengths), max(lengths)), generator=torch.Generator())
    return ids, (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def packing_error(decoder, ids, mask):
    texts = pack_texts(mask)
    with torch.no_grad():
        packed = packed_states(decoder, ids, texts)
    padded = states(decoder, ids, mask).flatten(0, 1)[texts.index]  # (T, D)
    return (packed - padded).abs().max().item() / padded.abs().max().item()


@pytest.mark.parametrize(
    "model_type",
    [pytest.param(m, marks=marks(m)) for m in ARCHITECTURES],
)
@pytest.mark.parametrize("window", [64, 4])
def test_packed_equals_padded_on_every_architecture_that_says_it_packs(model_type, window):
    decoder, _ = split_causal_lm(bidirectional_lm(model_type, "sdpa", window=window))
    assert can_pack(decoder) == (model_type not in OWN_ATTENTION | HYBRIDS)
    if can_pack(decoder):
        assert packing_error(decoder, *padded_batch()) < 1e-5


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mistral", "gemma3_text", "llama4_text"])
def test_a_packed_causal_decoder_stays_causal(model_type):
    model = tiny_causal_lm(model_type, "sdpa", window=4)
    decoder, _ = split_causal_lm(model)
    assert can_pack(decoder)
    ids, mask = padded_batch()
    assert packing_error(decoder, ids, mask) < 1e-5
    texts = pack_texts(mask)
    changed = ids.clone()
    changed[:, 2:] += 1
    with torch.no_grad():
        before, after = (packed_states(decoder, x, texts) for x in (ids, changed))
    first = texts.position_ids < 2
    assert torch.equal(before[first], after[first])
    assert not torch.isclose(before[~first], after[~first]).all(dim=1).any()


def test_tables_name_only_what_exists():
    assert set(ARCHITECTURES) >= OWN_ATTENTION


@pytest.mark.parametrize("kind", ["eager", "flex_attention"])
def test_other_attention_implementations_run_padded(kind):
    decoder, _ = split_causal_lm(make_bidirectional(tiny_causal_lm("llama", kind)))
    assert not can_pack(decoder)


def test_a_decoder_that_leaks_between_texts_is_found_out():
    decoder, _ = split_causal_lm(copy.deepcopy(bidirectional_lm("llama", "sdpa")))

    class Leaking(torch.nn.Module):
        """Adds to each token a little of the one before it in the row."""

        def forward(self, x):
            return x + 0.01 * x.roll(1, dims=1)

    decoder.norm = torch.nn.Sequential(decoder.norm, Leaking())
    assert not can_pack(decoder)


def test_the_check_leaves_mode_and_attention_as_they_were():
    decoder, _ = split_causal_lm(copy.deepcopy(bidirectional_lm("llama", "sdpa")))
    decoder.train()
    decoder.config._attn_implementation = "flash_attention_2"  # only asked for, on this machine
    assert can_pack(decoder)
    assert decoder.config._attn_implementation == "flash_attention_2"
    assert all(module.training for module in decoder.modules())


def test_half_precision_packs_as_well():
    decoder, _ = split_causal_lm(copy.deepcopy(bidirectional_lm("llama", "sdpa")))
    decoder.bfloat16()
    assert can_pack(decoder)
    assert packing_error(decoder, *padded_batch()) < 0.02


def test_an_error_in_a_packed_batch_does_not_reach_the_next():
    decoder, _ = split_causal_lm(copy.deepcopy(bidirectional_lm("llama", "sdpa")))
    ids, mask = padded_batch()
    expected = states(decoder, ids, mask)
    with pytest.raises(IndexError):
        packed_states(decoder, ids + 10**6, pack_texts(mask))
    torch.testing.assert_close(states(decoder, ids, mask), expected)


# Training ---------------------------------------------------------------------------------------


def encoder_with_a_lora(folder, **options):
    """One whose LoRA is not the identity, in float64: rounding neither fails it nor hides a slip."""
    torch.manual_seed(0)
    encoder = Encoder(folder, lora_dropout=0.0, **options).load()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return encoder.double()


def gradients(encoder, forward):
    encoder.zero_grad()
    forward().square().sum().backward()
    return [p.grad.clone() for p in encoder.parameters() if p.grad is not None]


def assert_same(gradients, others):
    assert len(gradients) == len(others) > 0
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * other.abs().max().item(), rtol=0.0)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_packed_and_padded_batches_have_the_same_gradients(
    llama_folder, lora_rank, checkpointing, pooling
):
    found = []
    for padding_free in (True, False):
        encoder = encoder_with_a_lora(
            llama_folder,
            lora_rank=lora_rank,
            gradient_checkpointing=checkpointing,
            padding_free=padding_free,
            pooling=pooling,
        )
        assert encoder.packs == padding_free
        batch = encoder.tokenize(TEXTS)
        found.append(gradients(encoder, lambda e=encoder, b=batch: e(b)))
    assert_same(*found)


@pytest.mark.parametrize("inner", [False, True])
def test_a_chunk_that_is_run_again_keeps_its_own_texts(llama_folder, inner):
    """In the backward pass, when another batch was the last to run."""
    encoder = encoder_with_a_lora(llama_folder, lora_rank=4, gradient_checkpointing=inner)
    chunks = [encoder.tokenize(texts) for texts in (TEXTS, LONGER)]
    plain = gradients(encoder, lambda: torch.cat([encoder(chunk) for chunk in chunks]))
    again = gradients(
        encoder,
        lambda: torch.cat([checkpoint(encoder, chunk, use_reentrant=False) for chunk in chunks]),
    )
    assert_same(plain, again)


def test_the_states_of_a_padded_batch_have_the_gradient_of_the_padded_one(llama_folder):
    """As MNTP takes them, in their places."""
    packed = encoder_with_a_lora(llama_folder, lora_rank=4)
    padded = encoder_with_a_lora(llama_folder, lora_rank=4, padding_free=False)
    batch = packed.tokenize(TEXTS)
    real = batch["attention_mask"].unsqueeze(-1)
    assert not packed.hidden_states(batch)[~real.bool().squeeze(-1)].any()
    assert_same(
        *(
            gradients(encoder, lambda e=encoder: e.hidden_states(batch) * real)
            for encoder in (packed, padded)
        )
    )


@pytest.fixture
def _process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_process_group")
def test_sharded_layers_in_mixed_precision_take_packed_texts(llama_folder):
    encoder = encoder_with_a_lora(llama_folder, lora_rank=0, gradient_checkpointing=True)
    batch = encoder.tokenize(TEXTS)
    expected = encoder(batch)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, cast_forward_inputs=True)
    mesh = dist.init_device_mesh("cpu", (1,))
    for layer in encoder.decoder.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    embeddings = encoder(batch)
    torch.testing.assert_close(embeddings, expected, atol=0.1, rtol=0.1)
    embeddings.square().sum().backward()
    gradient = encoder.decoder.layers[0].self_attn.q_proj.weight.grad
    assert gradient.full_tensor().any()


# Attention functions ----------------------------------------------------------------------------


def causal_or_not(is_causal):
    return SimpleNamespace(num_key_value_groups=2, is_causal=is_causal)


def band_mask(length, window, is_causal):
    i = torch.arange(length)
    band = (i[:, None] - i).abs() < window
    return (band.tril() if is_causal else band)[None, None] if length >= window else None


def varlen_by_definition(q, k, v, cu_q, cu_k, max_q, max_k, scale, window_size, enable_gqa):
    """What the documentation of `varlen_attn` says, for (T, H, E)."""
    assert torch.equal(cu_q, cu_k)
    assert max_q == max_k == cu_q.diff().max()
    left, right = window_size
    outputs = []
    for start, end in pairwise(cu_q):
        rows = [x[start:end].transpose(0, 1) for x in (q, k, v)]
        d = torch.arange(end - start) - torch.arange(end - start)[:, None]  # j - i
        mask = torch.ones_like(d, dtype=torch.bool)
        mask &= d >= -left if left >= 0 else mask
        mask &= d <= right if right >= 0 else mask
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                *rows, attn_mask=mask, scale=scale, enable_gqa=enable_gqa
            ).transpose(0, 1)
        )
    return torch.cat(outputs)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("is_causal", [False, True])
def test_one_call_for_all_texts_gives_what_a_call_a_length_gives(monkeypatch, window, is_causal):
    texts = pack_texts(padded_batch()[1])
    size = len(texts.index)
    query, key, value = (torch.randn(1, heads, size, 8) for heads in (4, 2, 2))
    mask = PackedMask(
        texts,
        lambda length: band_mask(length, window, is_causal) if window else None,
        window=window,
        is_band=True,
    )
    arguments = (causal_or_not(is_causal), query, key, value, mask)
    expected, _ = text_by_text(sdpa_attention_forward, *arguments, scaling=0.3)
    monkeypatch.setattr(attention, "varlen_attn", varlen_by_definition)
    found, _ = attention.varlen_attention(*arguments, scaling=0.3)
    torch.testing.assert_close(found, expected)


def on_gpu(dtype=torch.bfloat16, head=64):
    """What `takes_varlen` asks of a tensor."""
    return SimpleNamespace(
        is_cuda=True, dtype=dtype, shape=(1, 2, 3, head), device=torch.device("cpu")
    )


@pytest.mark.parametrize(
    ("states", "is_band", "arguments", "takes"),
    [
        (on_gpu(), True, {}, True),
        (on_gpu(), True, {"scaling": 0.1, "sliding_window": 4}, True),
        (on_gpu(torch.float32), True, {}, False),
        (on_gpu(head=512), True, {}, False),
        (on_gpu(), False, {}, False),
        (on_gpu(), True, {"dropout": 0.3}, False),
        (on_gpu(), True, {"softcap": 50.0}, False),
        (torch.zeros(1, 2, 3, 64).bfloat16(), True, {}, False),
    ],
)
def test_the_one_call_is_made_only_where_the_kernel_can(states, is_band, arguments, takes):
    mask = PackedMask(pack_texts(padded_batch()[1]), lambda _: None, None, is_band)
    assert attention.takes_varlen(states, states, states, mask, **arguments) == takes


def test_a_value_head_of_another_size_is_not_for_the_kernel():
    mask = PackedMask(pack_texts(padded_batch()[1]), lambda _: None, None, True)
    assert not attention.takes_varlen(on_gpu(), on_gpu(), on_gpu(head=32), mask)


def test_under_autocast_float32_states_are_for_the_kernel_too():
    mask = PackedMask(pack_texts(padded_batch()[1]), lambda _: None, None, True)
    states = on_gpu(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert attention.takes_varlen(states, states, states, mask)


def test_flash_attention_gets_boundaries_in_place_of_a_mask():
    calls = []
    attend = attention._attention("flash_attention_2", lambda *a, **k: calls.append((a, k)))
    texts = pack_texts(padded_batch()[1])
    attend(None, 1, 2, 3, PackedMask(texts, lambda _: None, None, True), softcap=50.0)
    ((_, _, _, _, mask), keywords) = calls[0]
    assert mask is None
    assert keywords["softcap"] == 50.0
    assert keywords["cu_seq_lens_q"] is keywords["cu_seq_lens_k"] is texts.boundaries
    assert keywords["max_length_q"] == keywords["max_length_k"] == 12


def test_the_backward_pass_costs_no_copy_of_the_batch_for_each_length():
    """Slices would: their gradients are as large as what they were cut from."""
    model = AutoModelForCausalLM.from_config(small_llama(), attn_implementation="sdpa")
    decoder, _ = split_causal_lm(make_bidirectional(model))
    assert can_pack(decoder)
    ids, mask = padded_batch(list(range(1, 30)))
    loss = packed_states(decoder, ids, pack_texts(mask)).sum()
    seen, stack = set(), [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [following for following, _ in node.next_functions]
    names = [node.name() for node in seen]
    assert sum("SplitWithSizes" in name for name in names) == 3 * 2  # query, key, value; 2 layers


@pytest.mark.parametrize("lengths", [LENGTHS, [12, 12]], ids=["packed", "without padding"])
@pytest.mark.parametrize(("window", "needs_masks"), [(64, False), (4, True)])
def test_masks_that_hide_nothing_are_left_out(monkeypatch, lengths, window, needs_masks):
    decoder, _ = split_causal_lm(bidirectional_lm("gemma3_text", "sdpa", window=window))
    ids, mask = padded_batch(lengths)
    texts = pack_texts(mask)
    received = []
    real = attention.hides_nothing
    monkeypatch.setattr(attention, "hides_nothing", lambda *_: received.append(real(*_)))
    with torch.no_grad():
        expected = packed_states(decoder, ids, texts) if texts else decoder(ids)[0]
    monkeypatch.setattr(attention, "hides_nothing", real)
    with torch.no_grad():
        found = packed_states(decoder, ids, texts) if texts else decoder(ids)[0]
    torch.testing.assert_close(found, expected)
    assert received
    assert all(received) != needs_masks


def test_a_causal_module_keeps_its_mask_and_a_gpu_is_not_asked():
    query, whole = torch.zeros(1, 1, 3, 4), torch.ones(1, 1, 3, 3, dtype=torch.bool)
    both_ways, causal = SimpleNamespace(is_causal=False), SimpleNamespace(is_causal=True)
    assert attention.hides_nothing(both_ways, query, whole)
    assert not attention.hides_nothing(causal, query, whole)
    assert not attention.hides_nothing(both_ways, query, whole, is_causal=True)
    assert not attention.hides_nothing(both_ways, query.to("meta"), whole)
    assert not attention.hides_nothing(both_ways, query, whole.tril())
    assert not attention.hides_nothing(both_ways, query, torch.zeros(1, 1, 3, 3))
