"""A model's folder as transformers 4.44 reads it, which llm2vec 0.2.3 needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from llm2vec_pl.errors import UserError

KEPT = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


def copy_as_of_old(source: str | Path, target: Path, revision: str | None = None) -> None:
    """Copies a folder, links the weights, and rewrites what transformers has changed since.

    Args:
        source: a folder with a configuration, a fast tokenizer and weights in safetensors, or the
            name of one on the hub.
        target: the folder to make.
        revision: branch, tag or commit of a hub name.

    Raises:
        UserError: if the source is no such folder.
    """
    if not Path(source).is_dir():
        source = snapshot_download(str(source), revision=revision, allow_patterns=list(KEPT))
    source = Path(source)
    needed = ("config.json", "tokenizer.json", "*.safetensors")
    if missing := [pattern for pattern in needed if not any(source.glob(pattern))]:
        raise UserError(
            f"{source} has no {', '.join(missing)}. llm2vec 0.2.3 needs a folder with a "
            "configuration, a fast tokenizer and weights in safetensors."
        )
    target.mkdir(parents=True)
    for file in (file for pattern in KEPT for file in source.glob(pattern)):
        if file.suffix == ".safetensors":
            (target / file.name).symlink_to(file.resolve())
        else:
            shutil.copy(file, target / file.name)
    write_as_of_old(target)


def write_as_of_old(folder: Path) -> None:
    """Rewrites the configuration and the tokenizer in a folder.

    Args:
        folder: a folder that transformers 5 has written; it reads the result too.
    """
    _rewrite(folder / "config.json", _config)
    if (folder / "tokenizer_config.json").is_file():
        _rewrite(folder / "tokenizer_config.json", _tokenizer_settings)
    _rewrite(folder / "tokenizer.json", _tokenizer)


def _rewrite(file: Path, change: Any) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text(encoding="utf-8"))), indent=2))


def _config(config: dict[str, Any]) -> dict[str, Any]:
    """With `rope_theta` and `torch_dtype`, which have other names now."""
    rope = config.pop("rope_parameters", None) or {}
    if "rope_theta" in rope:
        config["rope_theta"] = rope["rope_theta"]
    if rope.get("rope_type", "default") != "default":
        config["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    return config


def _tokenizer_settings(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        **settings,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _tokenizer(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """With merges as texts, not as pairs."""
    merges = tokenizer["model"].get("merges")
    if merges and not isinstance(merges[0], str):
        tokenizer["model"]["merges"] = [" ".join(pair) for pair in merges]
    return tokenizer
