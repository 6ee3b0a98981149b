import warnings

import pytest
from transformers import AutoModel, FalconConfig, GPT2Config, MixtralConfig

from llm2vec_pl.lora.new import add_lora, linear_layers, merge_adapters

SIZES = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
GPT2 = GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (FalconConfig(**SIZES), ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"]),
        (GPT2, ["c_attn", "c_fc", "c_proj"]),
        (
            MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=2),
            ["k_proj", "o_proj", "q_proj", "v_proj"],  # not the router
        ),
    ],
)
def test_a_lora_is_on_all_linear_layers_whatever_their_class(config, expected):
    decoder = AutoModel.from_config(config)
    assert linear_layers(decoder) == expected
    adapted = add_lora(decoder, "base", rank=2, dropout=0.0)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert all(any(f".{layer}.lora_A" in name for name in trained) for layer in expected)


def test_neither_adding_nor_merging_an_adapter_tells_the_user_of_libraries_internals(
    llama_folder, tmp_path
):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        adapted = add_lora(AutoModel.from_pretrained(llama_folder), llama_folder, rank=2)
        adapted.save_pretrained(tmp_path)
        merge_adapters(AutoModel.from_pretrained(llama_folder), [str(tmp_path)])
    assert not [w for w in shown if "is_gradient_checkpointing" in str(w.message)]
