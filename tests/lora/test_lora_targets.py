import warnings

import pytest
import torch
from tiny_models import tiny_causal_lm
from transformers import PreTrainedModel

from llm2vec_pl.bidirectional.switch import make_bidirectional
from llm2vec_pl.decoder.head import split_causal_lm
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.lora.new import add_lora
from llm2vec_pl.lora.targets import linear_layers

LLAMA = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]


def decoder_of(model_type: str) -> PreTrainedModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return split_causal_lm(make_bidirectional(tiny_causal_lm(model_type)))[0]


def adapted_layers(decoder: torch.nn.Module) -> set[str]:
    names = {name for name, p in decoder.named_parameters() if p.requires_grad}
    return {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in names}


def test_all_linear_layers_of_a_dense_decoder_are_picked_by_their_last_names():
    assert linear_layers(decoder_of("llama")) == LLAMA


@pytest.mark.parametrize("model_type", ["glm4_moe", "dots1", "solar_open"])
def test_a_mixture_whose_experts_peft_would_adapt_gets_a_lora_on_attention_and_says_so(model_type):
    decoder = decoder_of(model_type)
    with pytest.warns(UserWarning, match=r"leaves out down_proj, gate_proj, up_proj, which peft"):
        assert linear_layers(decoder) == ATTENTION


def test_layers_whose_keys_peft_would_rename_are_left_out_and_those_beside_them_are_not():
    decoder = decoder_of("laguna")
    with pytest.warns(UserWarning, match=r"shared_experts\.down_proj"):
        adapted = add_lora(decoder, "base", rank=2)
    layers = adapted_layers(adapted)
    assert "layers.0.mlp.down_proj" in layers
    assert not any("shared_experts" in name for name in layers)


@pytest.mark.parametrize(
    ("model_type", "layer"),
    [
        ("falcon_h1", "mamba.out_proj"),  # refused by peft
        ("bamba", "mamba.out_proj"),  # passed by in training, with the kernels for CUDA
        ("jamba", "dt_proj"),
        ("gemma3n_text", "correction_coefs"),
        ("zamba", "shared_transf.self_attn.q_proj"),  # one weight for two layers
        ("git", "image_encoder.vision_model.encoder.layers.0.self_attn.q_proj"),
    ],
)
def test_no_adapter_lies_where_it_would_not_be_trained_or_could_not_be_merged(model_type, layer):
    decoder = decoder_of(model_type)
    assert any(name.endswith(layer) for name, _ in decoder.named_modules())
    layers = adapted_layers(add_lora(decoder, "base", rank=2))
    assert layers
    assert not any(name.endswith(layer) for name in layers)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (["q_proj", "v_proj"], {f"layers.{i}.self_attn.{n}_proj" for i in (0, 1) for n in "qv"}),
        (["self_attn.q_proj"], {f"layers.{i}.self_attn.q_proj" for i in (0, 1)}),
        (
            [r"layers\.1\..*_proj"],
            {
                f"layers.1.{n}"
                for n in (
                    *(f"self_attn.{kind}" for kind in ATTENTION),
                    "mlp.gate_proj",
                    "mlp.up_proj",
                    "mlp.down_proj",
                )
            },
        ),
    ],
)
def test_layers_are_chosen_by_the_ends_of_their_names_or_by_expressions(
    llama_folder, chosen, expected
):
    encoder = Encoder(llama_folder, lora_targets=chosen, lora_rank=2).load()
    assert adapted_layers(encoder.decoder) == expected


@pytest.mark.parametrize(
    ("model_type", "chosen", "message"),
    [
        (
            "llama",
            "proj",
            "`lora_targets`: proj matches no layer.*Choose from down_proj, gate_proj",
        ),
        ("llama", "q_proj(", r"`lora_targets`: q_proj\( is neither the end of a layer's name nor"),
        ("deepseek_v32", "indexer.wk", "matches no layer that a LoRA can go on"),
        ("glm4_moe", "shared_experts.gate_proj", "peft would look for them elsewhere"),
    ],
)
def test_what_picks_no_layer_is_an_error_that_names_it(model_type, chosen, message):
    with pytest.raises(UserError, match=message):
        linear_layers(decoder_of(model_type), [chosen])
