"""How an encoder's parts come to be: weights, step 1, earlier adapters, a new LoRA, shards."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel

from llm2vec_pl.attention import can_pack
from llm2vec_pl.bidirectional import make_bidirectional
from llm2vec_pl.head import split_causal_lm
from llm2vec_pl.int8_dynamic import INT8_DYNAMIC, require_quantizable
from llm2vec_pl.quantization import BITSANDBYTES, keep_unpacked, quantization_config
from llm2vec_pl.sharded_weights import WeightFiles, places_of
from llm2vec_pl.sharding import shard_decoder
from llm2vec_pl.threads import limit_threads
from llm2vec_pl.used_weights import used_weights
from llm2vec_pl.weights import empty_weights, random_weights, read_weights

if TYPE_CHECKING:
    from llm2vec_pl.encoder import Encoder


class Parts(NamedTuple):
    """A loaded encoder's."""

    causal_lm: PreTrainedModel
    decoder: nn.Module
    lm_head: nn.Module
    packs: bool
    unused: tuple[str, ...]


def load_parts(encoder: Encoder, mesh: DeviceMesh | None, device: torch.device | None) -> Parts:
    """Reads an encoder's weights and makes of them what its arguments say.

    Args:
        encoder: one that is constructed only.
        mesh: the ranks that share the decoder's weights; None keeps them whole.
        device: where sharded and quantized weights go; others stay on the CPU.

    Raises:
        UserError: if the weights or an adapter do not fit.
    """
    device = device or torch.device("cpu")
    if device.type == "cpu":
        limit_threads()
    with _in_float32():
        model, files = _read(encoder, mesh, device)
        places = places_of(model)  # before a LoRA gives them other names
        if encoder.bidirectional:
            make_bidirectional(model)
        decoder, lm_head = split_causal_lm(model)
        if encoder.quantization == INT8_DYNAMIC:  # done by the encoder, when it can embed
            require_quantizable(decoder, mesh, device)
        decoder = _adapted(encoder, decoder)
        unused = () if encoder.lora_rank else freeze_unused(decoder)
        if not encoder.random_weights:
            freeze_beside(lm_head, decoder)
        if mesh is not None:
            shard_decoder(decoder, lm_head, mesh)
        if files is not None:
            files.read_parameters(places, device)
            decoder._apply(lambda tensor: tensor)  # FSDP2 takes the new parameters up
        if encoder.quantization and (encoder.lora_rank or mesh is not None):
            keep_unpacked(decoder)
        packs = encoder.padding_free and can_pack(decoder)
        if encoder.compile_decoder:
            decoder.compile(dynamic=False)
    return Parts(model, decoder, lm_head, packs, unused)


def _read(
    encoder: Encoder, mesh: DeviceMesh | None, device: torch.device
) -> tuple[Any, WeightFiles | None]:
    """The causal language model, and the files to fill it from if it is still empty."""
    dtype = getattr(torch, encoder.dtype)
    how = (encoder.attention, encoder.attention_dropout, encoder.trust_remote_code)
    source = encoder.source
    if encoder.random_weights:
        return random_weights(source, encoder.config, dtype, *how), None
    if encoder.adapters:
        from llm2vec_pl.merging import merged_source, merged_weights  # peft takes seconds to import

        if mesh is None and encoder.quantization not in BITSANDBYTES:
            return merged_weights(source, encoder.adapters, dtype, *how), None
        source = merged_source(source, encoder.adapters, dtype, encoder.trust_remote_code)
    if encoder.quantization in BITSANDBYTES:
        quantized = quantization_config(encoder.quantization, dtype, device)
        return read_weights(source, dtype, *how, quantized, device), None
    if (
        mesh is not None and not encoder.lora_options["dora"]
    ):  # whose magnitudes are made from the weights
        model = empty_weights(source, dtype, *how)
        if files := WeightFiles.of(source, model):
            files.read_buffers(model)
            return model, files
        warnings.warn(
            f"The files of {source.base_name} do not hold its weights as they are used: each rank "
            "reads the whole model before it keeps its share, and needs memory for it.",
            stacklevel=2,
        )
    return read_weights(source, dtype, *how), None


def _adapted(encoder: Encoder, decoder: Any) -> Any:
    """The decoder, ready to be trained: with gradient checkpointing and a LoRA, if any."""
    if encoder.gradient_checkpointing:
        decoder.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    if not encoder.lora_rank:
        return decoder
    from llm2vec_pl.lora import add_lora  # peft takes seconds to import

    adapted: Any = add_lora(decoder, encoder.source.base, encoder.lora_rank, **encoder.lora_options)
    if encoder.gradient_checkpointing:
        # peft adds hooks that only reentrant checkpointing needs, and that cannot be pickled.
        adapted.get_input_embeddings()._forward_hooks.clear()
    return adapted


def freeze_unused(decoder: nn.Module) -> tuple[str, ...]:
    """Freezes the weights that a text's states do not depend on, and gives their names.

    Nothing could train them, and an optimizer's weight decay would only shrink them.
    """
    if not all(p.is_floating_point() for p in decoder.parameters()):
        return ()  # quantized, and not trained
    used = used_weights(decoder)
    trained = {name: p for name, p in decoder.named_parameters() if p.requires_grad}
    unused = {name: p.requires_grad_(False) for name, p in trained.items() if name not in used}
    return tuple(unused)


def freeze_beside(lm_head: nn.Module, decoder: nn.Module) -> None:
    """Freezes what the head has of its own, as its bias: weights tied to the decoder's stay."""
    shared = set(decoder.parameters())
    for p in lm_head.parameters():
        if p not in shared:
            p.requires_grad_(False)


@contextlib.contextmanager
def _in_float32() -> Iterator[None]:
    """Under `--trainer.precision bf16-true` Lightning makes bfloat16 of what has no dtype."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
