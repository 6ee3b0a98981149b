import copy

import pytest
import torch
from tiny_models import tiny_causal_lm
from torch import nn
from transformers import AutoModel

from llm2vec_pl.bidirectional.switch import make_bidirectional
from llm2vec_pl.bidirectional.weight_usage import used_layers, used_weights
from llm2vec_pl.decoder.head import split_causal_lm


def decoder_of(model_type: str) -> nn.Module:
    return split_causal_lm(make_bidirectional(tiny_causal_lm(model_type)))[0]


def linear(decoder: nn.Module) -> list[str]:
    return [name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize(
    ("model_type", "unused"),
    [
        ("llama", ()),
        ("mixtral", ()),
        ("afmoe", ("expert_bias",)),
        ("laguna", ("e_score_correction_bias",)),
        ("deepseek_v32", ("indexer",)),
        ("git", ("image_encoder", "visual_projection", "img_temporal_embedding")),
    ],
)
def test_what_the_backward_pass_does_not_reach_is_unused(model_type, unused):
    decoder = decoder_of(model_type)
    decoder.train()(
        torch.randint(5, 100, (2, 12)), use_cache=False
    ).last_hidden_state.sum().backward()
    reached = {name for name, p in decoder.named_parameters() if p.grad is not None}
    named = {name for name, _ in decoder.named_parameters() if any(u in name for u in unused)}
    assert used_weights(decoder) == reached == {n for n, _ in decoder.named_parameters()} - named


@pytest.mark.parametrize(
    ("model_type", "idle"),
    [
        ("llama", None),
        ("deepseek_v32", "indexer"),  # picks tokens, without a gradient
        (
            "gemma3n_text",
            "correction_coefs",
        ),  # in training, its weight is used and it is not called
        ("git", "image_encoder"),
    ],
)
def test_layers_whose_output_no_state_depends_on_are_unused(model_type, idle):
    decoder = decoder_of(model_type)
    layers = linear(decoder)
    unused = set(layers) - used_layers(decoder, layers)
    assert unused >= {name for name in layers if idle and idle in name}
    assert bool(unused) == bool(idle)


@pytest.mark.parametrize("model_type", ["llama", "afmoe", "deepseek_v32", "gemma3n_text", "jamba"])
def test_a_decoder_without_its_weights_uses_the_same(model_type):
    decoder = decoder_of(model_type)
    empty = copy.deepcopy(decoder).to("meta")
    layers = linear(decoder)
    assert used_weights(empty) == used_weights(decoder)
    assert used_layers(empty, layers) == used_layers(decoder, layers)


def test_asking_changes_neither_the_decoder_nor_the_random_numbers():
    decoder = decoder_of("opt")
    decoder.requires_grad_(False)
    state, modes = copy.deepcopy(decoder.state_dict()), [m.training for m in decoder.modules()]
    for layer in (decoder, *decoder.modules()):
        if hasattr(layer, "layerdrop"):
            layer.layerdrop = 0.9
    random = torch.get_rng_state()
    assert used_layers(decoder, linear(decoder)) == set(linear(decoder))
    assert used_weights(decoder) == {name for name, _ in decoder.named_parameters()}
    assert torch.get_rng_state().equal(random)
    assert [m.training for m in decoder.modules()] == modes
    assert not any(p.requires_grad for p in decoder.parameters())
    assert all(value.equal(state[name]) for name, value in decoder.state_dict().items())


class Experts(nn.Module):
    """Two experts as modules of their own, of which one gets all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

    def forward(self, states):
        return self.experts[1](states)


def test_an_expert_that_no_token_is_routed_to_is_used_like_the_others():
    from transformers import LlamaConfig

    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16}
    decoder = AutoModel.from_config(
        LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)
    )
    decoder.layers[0].mlp = Experts()
    assert "layers.0.mlp.experts.0.weight" in used_weights(decoder)
    assert "layers.0.mlp.experts.0" in used_layers(decoder, linear(decoder))


def test_where_modelling_code_cannot_run_everything_counts_as_used():
    decoder = decoder_of("llama")
    decoder.forward = None
    assert used_weights(decoder) == {name for name, _ in decoder.named_parameters()}
