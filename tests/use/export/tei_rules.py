"""What Text Embeddings Inference asks of a folder before it serves it, as its sources say.

From `router/src/lib.rs` (what is read when the server starts), `backends/candle/src/lib.rs` (the
weights) and the configurations in `backends/candle/src/models`: `llama.rs`, `mistral.rs`,
`qwen2.rs`, `flash_qwen2.rs`, `qwen3.rs` and `gemma3.rs`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from tokenizers import Tokenizer


class RefusedError(Exception):
    """The server would not start."""


NUMBERS = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings",
}  # fmt: skip
REQUIRED = {
    "llama": NUMBERS | {"hidden_act", "initializer_range", "rms_norm_eps", "rope_theta"},
    "mistral": NUMBERS | {"hidden_act", "initializer_range", "rms_norm_eps", "rope_theta"},
    "qwen2": NUMBERS | {"hidden_act", "rms_norm_eps", "rope_theta"},
    "qwen3": NUMBERS
    | {"attention_bias", "hidden_act", "rms_norm_eps", "use_sliding_window", "eos_token_id"},
    "gemma3_text": NUMBERS
    | {
        "attention_bias", "pad_token_id", "hidden_activation", "query_pre_attn_scalar",
        "rms_norm_eps", "rope_local_base_freq", "rope_theta", "_sliding_window_pattern",
    },
}  # fmt: skip
WHOLE = NUMBERS | {"pad_token_id", "bos_token_id", "eos_token_id", "sliding_window"}
"""`usize` or `u32`, where they are given: a list of ends, as Llama 3 has, is refused."""

SWITCH = {
    "llama": ("use_bidirectional_attention", True),
    "mistral": ("use_bidirectional_attention", True),
    "qwen2": ("is_causal", False),
    "qwen3": ("use_bidirectional_attention", True),
    "gemma3_text": None,  # always reads both ways
}


def read_as_tei(folder: Path) -> dict[str, Any]:
    """What the server would go by: pooling, longest text, prompts, whether it reads both ways.

    Raises:
        RefusedError: if the server would not start.
    """
    config = _parsed(folder / "config.json")
    _require(config, {"architectures", "model_type", "max_position_embeddings"}, "config.json")
    if any(name.endswith("Classification") for name in config["architectures"]):
        raise RefusedError("taken for a classifier")
    pooling = _pooling(_parsed(folder / "1_Pooling" / "config.json"))
    Tokenizer.from_file(str(folder / "tokenizer.json"))
    sentence = _parsed(folder / "sentence_bert_config.json")
    _require(sentence, {"max_seq_length"}, "sentence_bert_config.json")
    prompts = _parsed(folder / "config_sentence_transformers.json").get("prompts")
    for module in json.loads((folder / "modules.json").read_text()):
        if module["type"] == "sentence_transformers.models.Dense":
            raise RefusedError("has a Dense module")
    _require_model(config)
    _require_tensors(folder, config)
    switch = SWITCH[config["model_type"]]
    return {
        "pooling": pooling,
        "max_input_length": sentence["max_seq_length"],
        "prompts": prompts,
        "bidirectional": switch is None or config.get(switch[0]) == switch[1],
    }


def _parsed(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise RefusedError(f"{file.name} not found")
    return json.loads(file.read_text())


def _require(config: dict[str, Any], names: set[str], where: str) -> None:
    if missing := sorted(name for name in names if config.get(name) is None):
        raise RefusedError(f"Failed to parse {where}: missing field {missing[0]}")


def _pooling(config: dict[str, Any]) -> str:
    _require(config, {"pooling_mode_cls_token", "pooling_mode_mean_tokens"}, "1_Pooling")
    for flag, name in {
        "pooling_mode_cls_token": "cls",
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_lasttoken": "last-token",
    }.items():
        if config.get(flag):
            return name
    raise RefusedError(f"Pooling config {config} is not supported")


def _require_model(config: dict[str, Any]) -> None:
    kind = config["model_type"]
    if kind not in REQUIRED:
        raise RefusedError(f"Model is not supported: {kind}")
    _require(
        config, REQUIRED[kind] - {"rope_theta"} if _qwen3_rope(config) else REQUIRED[kind], kind
    )
    for name in WHOLE & config.keys():
        if config[name] is not None and not isinstance(config[name], int):
            raise RefusedError(f"invalid type of {name}: {config[name]!r}")
    if kind in ("llama", "mistral") and config.get("rope_scaling") is not None:
        raise RefusedError("rope_scaling is not supported")
    if kind == "qwen2" and config.get("sliding_window") is not None:
        raise RefusedError("Sliding window is not supported for Qwen2")
    if kind == "qwen3" and config["use_sliding_window"]:
        raise RefusedError("Sliding window is not supported for Qwen3")


def _qwen3_rope(config: dict[str, Any]) -> bool:
    """Qwen3 may have its base in `rope_parameters`, as transformers 5 writes it."""
    return config["model_type"] == "qwen3" and "rope_theta" in (config.get("rope_parameters") or {})


def _require_tensors(folder: Path, config: dict[str, Any]) -> None:
    file = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    names: set[str] = set()
    if file.is_file():
        with safe_open(file, "pt") as tensors:
            names = set(tensors.keys())
    else:
        names = set(_parsed(index)["weight_map"])
    layers = range(config["num_hidden_layers"])
    wanted = {"embed_tokens.weight", "norm.weight"}
    wanted |= {f"layers.{i}.self_attn.q_proj.weight" for i in layers}
    wanted |= {f"layers.{i}.mlp.down_proj.weight" for i in layers}
    if config["model_type"] == "qwen2":
        wanted = {f"model.{name}" for name in wanted}
    if missing := sorted(wanted - names):
        raise RefusedError(f"cannot find tensor {missing[0]}")
