"""The files of an exported folder, in the layout that serving programs read today.

sentence-transformers 6 writes another one since version 5.4, which Text Embeddings Inference
refuses and vLLM pooled wrongly until August 2026. It still reads this one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llm2vec_pl.decoder import SETTINGS, write_weights
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.files import read_json, write_json
from llm2vec_pl.use.export.stock import OLDEST_TRANSFORMERS, POOLING_FLAGS, TEMPLATE, Stock
from llm2vec_pl.use.export.stock_tokenizer import save_tokenizer

KEPT = (
    "base_model", "bidirectional", "pooling", "max_length", "template", "rendered_template",
    "control_tokens", "prompts", "dtype",
)  # fmt: skip


def write_folder(encoder: Encoder, words: Stock, folder: Path) -> None:
    """Writes weights, tokenizer and the modules of sentence-transformers.

    Args:
        encoder: with its weights, adapters merged.
        words: what the modules have to say.
        folder: an existing one.

    Raises:
        OSError: if it cannot be written.
    """
    write_bare_model(encoder, folder)
    save_tokenizer(words.tokenizer, folder)
    write_modules(words, folder)
    write_settings(encoder, folder)


def write_bare_model(encoder: Encoder, folder: Path) -> None:
    """Writes the decoder without its head: `LlamaModel`, not `LlamaForCausalLM`.

    Programs that build the decoder themselves look for its tensors without the prefix `model.`.
    """
    bare: Any = encoder.causal_lm.base_model
    write_weights(bare, folder)
    file = folder / "config.json"
    config = with_older_names(read_json(file))
    for name in ("pad_token_id", "eos_token_id"):
        if config.get(name) is None:
            config[name] = getattr(encoder.tokenizer, name)
    file.unlink()
    write_json(file, config)


def with_older_names(config: dict[str, Any]) -> dict[str, Any]:
    """A `config.json` of transformers 5 that also has the names of transformers 4.

    Programs that look for `rope_theta` would refuse the folder, or take a default in silence.
    transformers 5 reads either.
    """
    rope = config.get("rope_parameters") or {}
    older: dict[str, Any] = {}
    if "rope_theta" in rope:
        older = _older_rope(rope)
    elif {"full_attention", "sliding_attention"} == set(rope):  # Gemma 3
        local = rope["sliding_attention"].get("rope_theta")
        older = _older_rope(rope["full_attention"]) | {"rope_local_base_freq": local}
    end = config.get("eos_token_id")
    if isinstance(end, list) and end:  # several ends of an answer, which no encoder gives
        older["eos_token_id"] = end[0]
    if "dtype" in config:
        older["torch_dtype"] = config["dtype"]
    return config | {key: value for key, value in older.items() if value is not None}


def _older_rope(rope: dict[str, Any]) -> dict[str, Any]:
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    scaled = scaling.get("rope_type", "default") != "default"
    return {"rope_theta": rope.get("rope_theta"), "rope_scaling": scaling if scaled else None}


def write_modules(words: Stock, folder: Path) -> None:
    """Writes `modules.json` and what belongs to its modules."""
    weighed = [("WordWeights", "0_WordWeights")] if words.unpooled else []
    modules = [
        ("Transformer", ""),
        *weighed,
        ("Pooling", "1_Pooling"),  # where Text Embeddings Inference looks, whatever comes before
        ("Normalize", "2_Normalize"),
    ]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
    for _, path in modules:
        (folder / path).mkdir(exist_ok=True)
    if weighed:
        _write_word_weights(words, folder / "0_WordWeights")
    flags = {flag: flag == words.pooling for flag in POOLING_FLAGS.values()}
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": words.size,
            **flags,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "include_prompt": False,
        },
    )
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": words.max_length, "do_lower_case": False},
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "prompts": words.prompts,
            "default_prompt_name": TEMPLATE if words.start else None,
            "similarity_fn_name": "cosine",
            **(_needs_to_read_both_ways() if words.bidirectional else {}),
        },
    )


def _needs_to_read_both_ways() -> dict[str, Any]:
    """An older transformers reads from left to right without a word, so others have to speak.

    sentence-transformers 6.2 refuses what does not meet `requirements`. One that cannot be
    installed beside such a transformers, before 5.2, warns that the model comes from a later one.
    """
    reason = "An earlier one reads each text from left to right only, and its embeddings are wrong."
    return {
        "requirements": {
            "transformers": {"specifier": f">={OLDEST_TRANSFORMERS}", "reason": reason}
        },
        "__version__": {"sentence_transformers": "5.2.0", "transformers": OLDEST_TRANSFORMERS},
    }


def _write_word_weights(words: Stock, folder: Path) -> None:
    """Weighs the tokenizer's control tokens with nothing, so that they are read but not pooled."""
    import torch
    from safetensors.torch import save_file

    tokenizer = words.tokenizer
    vocabulary = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    weights = dict.fromkeys(words.unpooled, 0.0)
    write_json(
        folder / "config.json",
        {"vocab": vocabulary, "word_weights": weights, "unknown_word_weight": 1},
    )
    each = torch.ones(len(vocabulary), 1)
    each[tokenizer.convert_tokens_to_ids(words.unpooled)] = 0
    save_file({"emb_layer.weight": each}, folder / "model.safetensors")


def write_settings(encoder: Encoder, folder: Path) -> None:
    """Writes `llm2vec_config.json`, so that `Encoder.from_pretrained` opens the folder too."""
    settings = encoder.settings()
    write_json(folder / SETTINGS, {key: settings[key] for key in KEPT if key in settings})
