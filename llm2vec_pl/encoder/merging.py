"""A model with its earlier adapters merged in, cached on disk to be sharded or quantized."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from llm2vec_pl.decoder import Origin, Source, write_weights
from llm2vec_pl.encoder.weights import read_weights
from llm2vec_pl.files import cached_folder
from llm2vec_pl.lora import merge_adapters


def merged_weights(
    source: Source,
    adapters: list[str],
    dtype: torch.dtype,
    attention: str | None = None,
    attention_dropout: float | None = None,
    trust_remote_code: bool = False,
    causal: bool = False,
) -> Any:
    """The causal language model with these adapters merged in, in full precision, and then cast.

    Args:
        source: of the weights that the adapters were trained on.
        adapters: folders, in the order of merging.
        dtype: of the merged weights.
        attention: as in `read_weights`, like the arguments that follow.
        attention_dropout: probability of dropping an attention weight.
        trust_remote_code: run modelling code that comes with the weights.
        causal: build a causal model, whatever the configuration says.

    Raises:
        UserError: if the weights cannot be read, or an adapter does not fit.
    """
    how = (attention, attention_dropout, trust_remote_code, causal)
    model = read_weights(source, torch.float32, *how)
    merge_adapters(model, adapters)
    for parameter in model.parameters():  # not the buffers: positions need float32
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    return model


def merged_source(
    source: Source,
    adapters: list[str],
    origin: Origin,
    dtype: torch.dtype,
    trust_remote_code: bool = False,
) -> Source:
    """Where to read the weights with these adapters merged in.

    One process of a node merges in float32, as always, and keeps the result in the package's
    cache; it is as large as the model itself. Sharded and quantized decoders are read from there: a
    rank has no room for the whole model, and a LoRA cannot be merged into 4 bits without loss.

    Args:
        source: of the weights that the adapters were trained on.
        adapters: folders, in the order of merging.
        origin: the fingerprints of the weights and of these adapters.
        dtype: of the merged weights.
        trust_remote_code: run modelling code that comes with the weights.

    Raises:
        UserError: if an adapter does not fit, or the disk has no room.
    """
    recipe = {
        "base": source.base_name,
        "weights": origin.base,
        "adapters": origin.adapters,
        "dtype": str(dtype),
        "written": 2,  # to be raised when merging changes
    }

    def write(folder: Path) -> None:
        model = merged_weights(source, adapters, dtype, trust_remote_code=trust_remote_code)
        write_weights(model, folder)

    folder = cached_folder("merged", recipe, write)
    return dataclasses.replace(source, base=str(folder), revision=None)
