"""A model with its earlier adapters merged in, kept on disk: to be sharded or quantized from."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import torch

from llm2vec_pl.cache import cached_folder
from llm2vec_pl.head import split_causal_lm
from llm2vec_pl.lora import merge_adapters
from llm2vec_pl.source import Source
from llm2vec_pl.weights import read_weights


def merged_weights(
    source: Source,
    adapters: list[str],
    dtype: torch.dtype,
    attention: str | None = None,
    attention_dropout: float | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """The causal language model with these adapters merged in, in full precision, and then cast.

    Args:
        source: of the weights that the adapters were trained on.
        adapters: folders or hub names, in the order of merging.
        dtype: of the merged weights.
        attention: as those of `read_weights`, and the rest too.
        attention_dropout: chance of an attention weight to be dropped.
        trust_remote_code: run modelling code that comes with the weights.

    Raises:
        UserError: if the weights cannot be read, or an adapter does not fit.
    """
    model = read_weights(source, torch.float32, attention, attention_dropout, trust_remote_code)
    merge_adapters(split_causal_lm(model)[0], adapters)
    for parameter in model.parameters():  # not the buffers: positions need float32
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    return model


def merged_source(
    source: Source, adapters: list[str], dtype: torch.dtype, trust_remote_code: bool = False
) -> Source:
    """Where to read the weights with these adapters merged in.

    One process of a node merges in float32, as always, and keeps the result in the package's
    cache, as large as the model itself. Sharded and quantized decoders need it there: a rank has no
    room for the whole model, and a LoRA cannot be merged into 4 bits without loss.

    Args:
        source: of the weights that the adapters were trained on.
        adapters: folders or hub names, in the order of merging.
        dtype: of the merged weights.
        trust_remote_code: run modelling code that comes with the weights.

    Raises:
        UserError: if an adapter does not fit, or the disk has no room.
    """
    recipe = {
        "base": source.base_name,
        "revision": source.revision,
        "weights": _folder_state(Path(source.base)),
        "adapters": [_fingerprint(adapter) for adapter in adapters],
        "dtype": str(dtype),
    }

    def write(folder: Path) -> None:
        model = merged_weights(source, adapters, dtype, trust_remote_code=trust_remote_code)
        model.save_pretrained(folder)

    folder = cached_folder("merged", recipe, write)
    return dataclasses.replace(source, base=str(folder), revision=None)


def _folder_state(folder: Path) -> list[tuple[str, int, int]]:
    """What changes when somebody writes other weights into a local folder."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _fingerprint(adapter: str) -> str:
    """Of an adapter's weights and configuration, wherever they lie."""
    from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
    from transformers.utils import cached_file

    digest = hashlib.blake2b(digest_size=16)
    for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME):
        digest.update(Path(str(cached_file(adapter, name))).read_bytes())
    return digest.hexdigest()
