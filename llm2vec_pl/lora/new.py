"""A new low-rank adapter on the inner decoder, to be trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from llm2vec_pl.lora.adapters import merge_adapters as merge_adapters
from llm2vec_pl.lora.adapters import without_advice
from llm2vec_pl.lora.dropout import fuse_dropout
from llm2vec_pl.lora.targets import linear_layers


def add_lora(
    decoder: PreTrainedModel,
    base: str,
    rank: int,
    alpha: float | None = None,
    dropout: float = 0.05,
    dora: bool = False,
    rslora: bool = False,
    targets: Sequence[str] | None = None,
) -> nn.Module:
    """Freezes a decoder and puts a LoRA in float32 on its linear layers (Hu et al. 2021).

    The adapter goes on the inner decoder, so its keys are `base_model.model.layers…`, like those of
    the published LLM2Vec adapters.

    Args:
        decoder: without its language modelling head.
        base: name or folder of the decoder's weights, for the adapter's own record.
        rank: of the update matrices.
        alpha: scale; twice the rank if None.
        dropout: on the adapter's input.
        dora: decompose the weight into direction and magnitude (Liu et al. 2024).
        rslora: scale by 1 / sqrt(rank) instead of 1 / rank (Kalajdzievski 2023).
        targets: ends of layers' names, or regular expressions; all of `linear_layers` if None.

    Returns:
        The wrapped decoder.

    Raises:
        UserError: if one of the targets matches no layer.
    """
    from peft import LoraConfig, get_peft_model

    from llm2vec_pl.lora.added import add_in_place

    config = LoraConfig(
        task_type="FEATURE_EXTRACTION",
        base_model_name_or_path=base,
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=linear_layers(decoder, targets),
        use_dora=dora,
        use_rslora=rslora,
    )
    with _real_weights(decoder), without_advice():
        adapted = get_peft_model(decoder, config)
    if not dora:
        fuse_dropout(adapted)
        add_in_place(adapted)
    return adapted


@contextlib.contextmanager
def _real_weights(decoder: nn.Module) -> Iterator[None]:
    """Puts stand-ins on the CPU for weights on the meta device, each as large as one number.

    peft creates an adapter on the device of its weight, and on the meta device it would be empty.
    Drawn on the CPU, it gets the same values as on a decoder that has its weights.
    """
    weights = {
        module: weight
        for module in decoder.modules()
        if (weight := module._parameters.get("weight")) is not None and weight.is_meta
    }
    for module, weight in weights.items():
        stand_in = torch.zeros((), dtype=weight.dtype).expand(weight.shape)
        module._parameters["weight"] = nn.Parameter(stand_in, requires_grad=False)
    try:
        yield
    finally:
        for module, weight in weights.items():
            weight.requires_grad = False
            module._parameters["weight"] = weight
