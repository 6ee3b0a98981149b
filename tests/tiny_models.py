"""Every decoder-only architecture of transformers, shrunk to a few ten thousand weights.

A configuration class gives the names and the defaults; the tables below say how small. What a
single architecture wants besides is in `PARTICULAR`.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import torch
from tokenizers import Tokenizer, models, processors
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from llm2vec_pl.decoder.architectures import WINDOW_SIZES


def words(text: str) -> set[str]:
    return set(text.split())


HIDDEN, HEADS, HEAD_DIM, VOCABULARY, WIDE = 64, 4, 16, 128, 64

SIZES: list[tuple[float, str]] = [
    (VOCABULARY, "vocab_size vocab_size_per_layer_input"),
    (
        HIDDEN,
        """hidden_size d_model n_embd dim_model word_embed_proj_dim embedding_size embed_dim
        decoder_hidden_size attention_hidden_size global_hidden_size emb_dim lru_width""",
    ),
    (
        HEADS,
        """num_attention_heads n_head n_heads num_heads decoder_attention_heads
        encoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads
        num_experts num_local_experts n_routed_experts moe_num_experts linear_num_value_heads
        mamba_n_heads mamba_num_heads""",
    ),
    (
        HEAD_DIM,
        """head_dim d_kv dim_head attention_head_dim global_head_dim swa_head_dim v_head_dim
        swa_v_head_dim qk_head_dim kv_lora_rank q_lora_rank linear_key_head_dim
        linear_value_head_dim index_head_dim""",
    ),
    (
        8,
        """qk_rope_head_dim qk_nope_head_dim rotary_dim mamba_d_state mamba_chunk_size chunk_size
        state_size ssm_state_size mamba_dt_rank time_step_rank hidden_size_per_layer_input
        laurel_rank""",
    ),
    (
        96,
        """intermediate_size n_inner ffn_dim d_ff decoder_ffn_dim encoder_ffn_dim ffn_hidden_size
        dim_ff dff feed_forward_size intermediate_size_mlp dense_intermediate_size
        mlp_hidden_size""",
    ),
    (
        32,
        """moe_intermediate_size shared_expert_intermediate_size shared_experts_intermediate_size
        shared_intermediate_size moe_shared_expert_intermediate_size expert_ffn_hidden_size
        moe_ffn_hidden_size mamba_d_head mamba_head_dim""",
    ),
    (
        2,
        """num_experts_per_tok num_experts_per_token moe_k moe_topk top_k_experts
        linear_num_key_heads mamba_expand index_n_heads""",
    ),
    (
        1,
        """num_expert_group n_group topk_group num_expert_groups n_shared_experts
        num_shared_experts moe_num_shared_experts mamba_n_groups n_groups""",
    ),
    (
        128,
        """max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length
        mamba_d_ssm""",
    ),
    (64, "original_max_position_embeddings index_topk"),
    (0, "n_hash_layers"),
    (
        0.0,
        """attention_dropout hidden_dropout dropout resid_pdrop embd_pdrop attn_pdrop
        activation_dropout layerdrop hidden_dropout_prob attention_probs_dropout_prob
        resid_dropout embd_dropout""",
    ),
]
SIZE_OF = {name: size for size, names in SIZES for name in words(names)}
LAYER_COUNTS = words(
    """num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers
    num_encoder_layers num_decoder_layers num_blocks"""
)
KEY_VALUE_HEADS = words(
    """num_key_value_heads num_kv_heads multi_query_group_num
    swa_num_key_value_heads num_global_key_value_heads"""
)
SPECIAL_TOKEN = re.compile(r"_token_id$|_token_index$")

REMOVE = object()
ZAMBA = {
    "layers_block_type": ["linear_attention", "hybrid"] * 2,
    "num_hidden_layers": 4,
    "use_mamba_kernels": False,
    "num_key_value_heads": HEADS,
}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
PARTICULAR: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0}
            for kind in ("full_attention", "sliding_attention")
        },
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {
            "hidden_size": HIDDEN,
            "ffn_hidden_size": 32,
            "moe_num_experts": 4,
            "moe_top_k": 2,
        },
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "deepseek_v2": {
        "topk_method": "greedy",
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
    },
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "dots3_note_text": {"num_key_value_heads": HEADS, "per_layer_config": {}},
    "gemma3n_text": {"num_kv_shared_layers": 0, "intermediate_size": 96},
    "gemma4_text": {"num_kv_shared_layers": 0},
    "gemma4_unified_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {
        "attention_layers": ["global", "local"],
        "attention_types": [[["global", "local"], 1]],
    },
    "git": {"vision_config": TOWER},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "kimi_linear": {"linear_head_dim": 16, "linear_num_heads": 2, "num_key_value_heads": HEADS},
    "lfm2": {"layer_types": ["conv", "full_attention"], "full_attn_idxs": [1]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"zero_expert_num": 2},
    "mamba2": {"num_heads": 8},
    "nemotron": {"num_key_value_heads": 2},
    "phi4_multimodal": {
        "vision_config": TOWER | {"image_size": 56, "crop_size": 56},
        "audio_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 16,
            "depthwise_separable_out_channel": 16,
            "nemo_conv_channels": 16,
        },
    },
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
        "ngram_vocab_size_base": 500,
        "hc_lowrank": 8,
        "ple_embed_dim": None,
        "split_ngram_parts": 4,
        "make_ngram_vocab_size_divisible_by": 8,
        "heads_per_ngram": 2,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "youtu": {"num_key_value_heads": HEADS},
    "zamba": dict(**ZAMBA, n_mamba_heads=2, attention_hidden_size=128, attention_head_dim=32),
    "zamba2": dict(
        **ZAMBA,
        n_mamba_heads=4,
        attention_hidden_size=REMOVE,
        attention_head_dim=REMOVE,
        mamba_headdim=REMOVE,
        kv_channels=REMOVE,
        adapter_rank=8,
    ),
    "zaya": {"num_experts_per_tok": 1},
}


def tiny_config(model_type: str, window: int = WIDE, **overrides: Any) -> PretrainedConfig:
    """The text configuration of an architecture, with two layers, one of each kind it has."""
    default = CONFIG_MAPPING[model_type]().get_text_config(decoder=True)
    values = {k: v for k, v in vars(default).items() if not k.startswith("_")}
    kinds = next((v for k, v in values.items() if k in ("layer_types", "layers_block_type")), None)
    small = {k: v for k, old in values.items() if (v := shrunk(k, old, values)) is not None}
    if kinds:
        name = "layer_types" if "layer_types" in values else "layers_block_type"
        small[name] = one_of_each(kinds)
        small |= {k: len(small[name]) for k in LAYER_COUNTS if k in small}
        if values.get("mlp_layer_types"):
            mlps = list(dict.fromkeys(values["mlp_layer_types"])) * len(small[name])
            small["mlp_layer_types"] = mlps[: len(small[name])]
    small |= {k: window for k in WINDOW_SIZES if k in small}
    small |= PARTICULAR.get(default.model_type, {}) | overrides
    return type(default)(**{k: v for k, v in small.items() if v is not REMOVE})


def shrunk(name: str, value: Any, values: dict[str, Any]) -> Any:
    """The small value of one configuration entry; None leaves its default."""
    if name == "head_dim" and value in (None, values.get("qk_rope_head_dim", ...)):
        return HEAD_DIM if value is None else SIZE_OF["qk_rope_head_dim"]
    if value is None or isinstance(value, (bool, str, list, dict)):
        return None
    if name in LAYER_COUNTS:
        return 2
    if name in KEY_VALUE_HEADS:
        return 1 if value == 1 else HEADS if values.get("kv_lora_rank") else 2
    if name in WINDOW_SIZES:
        return WIDE
    if SPECIAL_TOKEN.search(name):
        return 0 if "pad" in name else 1 if "bos" in name else 2
    return SIZE_OF.get(name)


def one_of_each(kinds: list[str]) -> list[str]:
    """Each kind of layer once, at least two layers, full attention last as some models demand."""
    kinds = sorted(dict.fromkeys(kinds), key="full_attention".__eq__)
    return kinds if len(kinds) > 1 else kinds * 2


def tiny_causal_lm(model_type: str, attention: str = "eager", **overrides: Any) -> PreTrainedModel:
    """A causal language model with random weights, the same ones each time, in eval mode."""
    config = tiny_config(model_type, **overrides)
    torch.manual_seed(0)
    try:
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        modelling = import_module(type(config).__module__.replace("configuration", "modeling"))
        name = re.sub("(Text)?Config", "ForCausalLM", type(config).__name__)
        model = getattr(modelling, name)._from_config(config, attn_implementation=attention)
    return model.eval()


def tiny_checkpoint(model_type: str) -> PreTrainedModel:
    """A causal language model as its checkpoints hold it, with its best attention.

    A text model that belongs inside of a model for images or audio lies in a small one of those, if
    that can be built: gemma3n's needs a package for its tower, dots3_note's cannot be shrunk.
    """
    try:
        config = tiny_composite_config(model_type)
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()
    except (ImportError, ValueError):
        pass
    try:
        return tiny_causal_lm(model_type, "sdpa")
    except ValueError:
        return tiny_causal_lm(model_type, "eager")


def tiny_composite_config(model_type: str) -> PretrainedConfig:
    """An architecture's whole configuration, its parts as small as `tiny_config` is."""
    default, text = CONFIG_MAPPING[model_type](), tiny_config(model_type)
    parts = type(default).sub_configs
    if type(default) is type(text) or not parts:
        return text
    small = {
        name: text if type(part) is type(text) else tiny_part(part)
        for name in parts
        if (part := getattr(default, name, None)) is not None
    }
    return type(default)(**small)


def tiny_part(part: PretrainedConfig) -> PretrainedConfig:
    """The small configuration of a tower."""
    values = {k: v for k, v in vars(part).items() if not k.startswith("_")}
    small = {k: v for k, old in values.items() if (v := shrunk(k, old, values)) is not None}
    widths = ("hidden_size", "d_model", "embed_dim")
    return type(part)(**small | {k: TOWER["hidden_size"] for k in widths if k in small})


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A letter is a token: fewer than `VOCABULARY`, and special tokens where `tiny_config` has them."""
    letters = [chr(code) for code in range(32, 127)]
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
