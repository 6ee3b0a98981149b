"""The weights of an encoder in bytes, one by one: planned from a model without data, or found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from llm2vec_pl.decoder import decoder_layers

WeightQuantization = Literal["nf4", "int8"]

NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)
"""Bytes per weight: 4 bits, and a share of the scales, which are quantized too (QLoRA, sec. 3)."""

HEAD, REST = "head", "rest"


@dataclass(frozen=True)
class Weight:
    """One weight matrix or vector.

    Args:
        group: the group that FSDP2 gathers it with: a layer's name, REST of the decoder, or HEAD.
        count: how many numbers it has.
        size: its bytes.
        trained: whether it is trained.
        quantized: how it is quantized, if at all.
    """

    group: str
    count: int
    size: int
    trained: bool
    quantized: WeightQuantization | None = None

    @property
    def shards(self) -> bool:
        """Whether FSDP2 gives each device a part of it; the head and int8 weights stay whole."""
        return self.group != HEAD and self.quantized != "int8"


def planned_weights(
    decoder: nn.Module, head: nn.Module, lora_rank: int, quantization: WeightQuantization | None
) -> Iterator[Weight]:
    """The weights that an `Encoder` will have.

    Args:
        decoder: a decoder as transformers builds it, on any device.
        head: the head, from `split_causal_lm`.
        lora_rank: rank of the LoRA; 0 trains all weights except an untied head.
        quantization: quantization of the decoder's linear layers.
    """
    linear = {id(m.weight) for m in decoder.modules() if type(m) in (nn.Linear, Conv1D)}
    groups = _groups(decoder, head)
    decoders = {id(weight) for weight in decoder.parameters()}
    for weight in (*decoder.parameters(), *_only(head, decoders)):
        group, count = groups.get(id(weight), REST), weight.numel()
        size = count * weight.element_size()
        if quantization and id(weight) in linear:
            size = quantized_size(count, len(weight), quantization)
            yield Weight(group, count, size, trained=False, quantized=quantization)
        else:
            yield Weight(group, count, size, not lora_rank and id(weight) in decoders)
        if lora_rank and id(weight) in linear:
            count = lora_rank * sum(weight.shape)
            yield Weight(group, count, 4 * count, trained=True)


def found_weights(encoder: Any) -> Iterator[Weight]:
    """The weights of a loaded `Encoder`, on all devices that share them."""
    groups = _groups(encoder.decoder, encoder.lm_head)
    for weight in encoder.parameters():
        group, count = groups.get(id(weight), REST), weight.numel()
        size, kind = count * weight.element_size(), type(weight).__name__
        if kind == "Params4bit":
            count = 2 * size if weight.bnb_quantized else count  # two in a byte
            yield Weight(group, count, quantized_size(count, 1, "nf4"), False, quantized="nf4")
        elif kind == "Int8Params":
            size = quantized_size(count, len(weight), "int8")
            yield Weight(group, count, size, False, quantized="int8")
        else:
            yield Weight(group, count, size, weight.requires_grad)


def quantized_size(count: int, rows: int, quantization: WeightQuantization) -> int:
    """Bytes of a matrix of `count` numbers, with its scales."""
    if quantization == "nf4":
        return round(count * NF4_BYTES)
    return count + 4 * rows  # one scale per row, in float32


def _groups(decoder: nn.Module, head: nn.Module) -> dict[int, str]:
    layers = decoder_layers(decoder).items()
    groups = {id(weight): name for name, layer in layers for weight in layer.parameters()}
    return groups | {id(weight): HEAD for weight in head.parameters()}


def _only(head: nn.Module, decoders: set[int]) -> list[Tensor]:
    return [weight for weight in head.parameters() if id(weight) not in decoders]
