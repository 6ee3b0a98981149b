"""A copy of an encoder embeds as the first one does: in this process, in another, whatever attention
it is switched to."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saved_models import save_model
from test_packed_attention import padded_batch
from tiny_models import tiny_causal_lm
from torch import Tensor, nn
from transformers import AttentionInterface, MistralConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llm2vec_pl.bidirectional.switch import make_bidirectional
from llm2vec_pl.decoder import decoder_layers
from llm2vec_pl.encoder.encoder import Encoder

TEXTS = ["a text", "", "another text, somewhat longer than the first one", "three small words"]
OPTIONS = {
    "a LoRA": {},
    "DoRA with checkpointing": {"gradient_checkpointing": True, "dora": True},
    "full weights": {"lora_rank": 0},
    "full weights with checkpointing": {"lora_rank": 0, "gradient_checkpointing": True},
    "full weights, causal": {"lora_rank": 0, "bidirectional": False},
    "int8": {"lora_rank": 0, "quantization": "int8_dynamic"},
    "padded batches": {"padding_free": False},
    "eager attention": {"attention": "eager"},
}
WINDOWED = ("mistral", "llama4_text")


def loaded(folder: str, **options: object) -> Encoder:
    """An encoder whose LoRA, if it has one, changes the embeddings."""
    torch.manual_seed(0)
    encoder = Encoder(folder, **options).load()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return encoder


def windowed_models() -> list[PreTrainedModel]:
    """Bare models after step 1, for which transformers' own masks would not do."""
    return [make_bidirectional(tiny_causal_lm(name, "sdpa", window=4)) for name in WINDOWED]


def logits(model: PreTrainedModel) -> Tensor:
    ids, mask = padded_batch()
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return found[mask.bool()]


def results(saved: bytes) -> list[list[float]]:
    """What saved encoders and bare models give, in whatever process."""
    things = torch.load(io.BytesIO(saved), weights_only=False)
    found = [t.encode(TEXTS) if isinstance(t, Encoder) else logits(t) for t in things]
    return [each.flatten().tolist() for each in found]


def embed(encoder: Encoder) -> list[list[float]]:
    return encoder.encode(TEXTS).tolist()


def as_in_a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' registries as they are before anything of this package is installed."""
    for registry in (AttentionInterface, AttentionMaskInterface):
        entries = {}
        for name, entry in registry._global_mapping.items():
            while "llm2vec_pl" in entry.__code__.co_filename:
                entry = entry.__wrapped__
            entries[name] = entry
        monkeypatch.setattr(registry, "_global_mapping", entries)


@pytest.mark.slow  # another process imports torch and transformers
def test_encoders_and_bare_models_work_alike_in_another_process(llama_folder):
    names = [name for name in OPTIONS if name != "DoRA with checkpointing"]
    things = [loaded(llama_folder, **OPTIONS[name]) for name in names]
    things += windowed_models()
    torch.save(things, saved := io.BytesIO())
    here = results(saved.getvalue())
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(results, (saved.getvalue(),))
        (embedded,) = pool.map(embed, things[:1])  # as an argument of its own
    for name, one, other in zip([*names, *WINDOWED], here, there, strict=True):
        torch.testing.assert_close(torch.tensor(one), torch.tensor(other), msg=name)
    torch.testing.assert_close(torch.tensor(embedded), things[0].encode(TEXTS))


def things_to_copy(folder: str) -> list[Encoder | PreTrainedModel]:
    return [loaded(folder), loaded(folder, lora_rank=0), *windowed_models()]


def test_registries_of_another_process_are_filled_by_unpickling(llama_folder, request):
    things = things_to_copy(llama_folder)
    torch.save(things, saved := io.BytesIO())
    expected = results(saved.getvalue())
    for thing, values in zip(things, expected, strict=True):
        torch.save([thing], saved := io.BytesIO())
        with request.getfixturevalue("monkeypatch").context() as patch:
            as_in_a_fresh_process(patch)
            torch.testing.assert_close(
                torch.tensor(results(saved.getvalue())[0]), torch.tensor(values)
            )


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_a_copy_embeds_and_trains_alike(llama_folder, options, clone):
    encoder = loaded(llama_folder, **options)
    other = clone(encoder)
    torch.testing.assert_close(other.encode(TEXTS), encoder.encode(TEXTS))
    assert other.packs == encoder.packs
    assert all(module.training for module in other.modules())
    if "quantization" in options:
        return
    losses = []
    for each in (encoder, other):
        torch.manual_seed(0)  # the same dropout
        losses.append(each(each.tokenize(TEXTS)).square().sum())
        losses[-1].backward()
    assert losses[0] == losses[1]
    for one, two in zip(encoder.parameters(), other.parameters(), strict=True):
        assert one is not two
        assert (one.grad is None) == (two.grad is None)


def test_a_copy_of_a_compiled_encoder_is_compiled(llama_folder, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **_: compiled.append(module))
    encoder = Encoder(llama_folder, compile=True).load()
    other = copy.deepcopy(encoder)
    layers = [decoder_layers(each.decoder).values() for each in (encoder, other)]
    assert [id(module) for module in compiled] == [id(m) for both in layers for m in both]


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    texts=st.lists(st.text(max_size=30), min_size=1, max_size=6),
    bidirectional=st.booleans(),
    attention=st.sampled_from([None, "eager", "sdpa"]),
)
def test_a_copy_embeds_any_texts_alike(llama_folder, texts, bidirectional, attention):
    options = {"lora_rank": 0, "bidirectional": bidirectional, "attention": attention}
    encoder = Encoder(llama_folder, **options).load()
    copies = [copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))]
    for other in copies:
        torch.testing.assert_close(other.encode(texts), encoder.encode(texts), atol=1e-5, rtol=0)


# Attention that is not the one it was -----------------------------------------------------------


def assert_packs_alone(encoder: Encoder, packs: bool = True) -> None:
    """Each text has the embedding that it has alone."""
    assert encoder.packs == packs
    alone = torch.stack([encoder.encode(text) for text in TEXTS])
    torch.testing.assert_close(encoder.encode(TEXTS), alone, atol=1e-5, rtol=0)


def switch_model(encoder: Encoder) -> None:
    encoder.causal_lm.set_attn_implementation("eager")


def switch_decoder(encoder: Encoder) -> None:
    encoder.decoder.set_attn_implementation("eager")


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("switch", [switch_model, switch_decoder])
def test_an_encoder_that_is_switched_to_eager_attention_pads(llama_folder, switch, lora_rank):
    encoder = loaded(llama_folder, lora_rank=lora_rank)
    expected = encoder.encode(TEXTS)
    switched = copy.deepcopy(encoder)
    for each in (encoder, switched):
        switch(each)
        assert_packs_alone(each, packs=False)
        torch.testing.assert_close(each.encode(TEXTS), expected, atol=1e-5, rtol=0)
    encoder.causal_lm.set_attn_implementation("sdpa")
    assert_packs_alone(encoder)


def test_a_single_layer_in_eager_attention_is_noticed(llama_folder):
    encoder = loaded(llama_folder)
    attention = next(m for m in encoder.decoder.modules() if type(m).__name__ == "LlamaAttention")
    attention.config = copy.deepcopy(attention.config)
    attention.config._attn_implementation = "eager"
    assert not encoder.packs


@pytest.mark.parametrize("first", [True, False])
def test_which_encoder_is_loaded_first_does_not_matter(tmp_path, first, monkeypatch):
    as_in_a_fresh_process(monkeypatch)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 8192}
    folder = save_model(MistralConfig(**sizes, **heads, sliding_window=3), tmp_path / "mistral")
    for bidirectional in (first, not first):
        options = {"lora_rank": 0, "bidirectional": bidirectional}
        packed = Encoder(str(folder), **options).load()
        padded = Encoder(str(folder), padding_free=False, **options).load()
        assert packed.packs
        torch.testing.assert_close(packed.encode(TEXTS), padded.encode(TEXTS), atol=1e-5, rtol=0)


def test_registries_that_lost_their_entries_get_them_again(llama_folder, monkeypatch):
    encoder = loaded(llama_folder)
    expected = encoder.encode(TEXTS)
    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", sdpa_attention_forward)
    torch.testing.assert_close(encoder.encode(TEXTS), expected)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "sdpa", sdpa_mask)
    torch.testing.assert_close(encoder.encode(TEXTS), expected)


def test_an_attention_function_of_the_users_own_runs_padded(llama_folder, monkeypatch):
    encoder = loaded(llama_folder)
    expected = encoder.encode(TEXTS)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "sdpa", sdpa_attention_forward)
    assert_packs_alone(encoder, packs=False)
    torch.testing.assert_close(encoder.encode(TEXTS), expected, atol=1e-5, rtol=0)
