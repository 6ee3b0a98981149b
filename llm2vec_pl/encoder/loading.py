"""Loads the parts of an encoder: weights, step 1, earlier adapters, a new LoRA, shards."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel

from llm2vec_pl.bidirectional import make_bidirectional, used_weights
from llm2vec_pl.decoder import (
    BITSANDBYTES,
    Origin,
    WeightFiles,
    adapter_settings,
    keep_unpacked,
    limit_threads,
    quantization_config,
    slots_of,
    split_causal_lm,
)
from llm2vec_pl.distributed import shard_decoder
from llm2vec_pl.encoder.compiling import compile_layers, require_compiler
from llm2vec_pl.encoder.int8_dynamic import INT8_DYNAMIC, require_quantizable
from llm2vec_pl.encoder.origin import origin_of, require_origin
from llm2vec_pl.encoder.packed_attention import can_pack
from llm2vec_pl.encoder.weights import empty_weights, random_weights, read_weights

if TYPE_CHECKING:
    from llm2vec_pl.encoder.encoder import Encoder


class Parts(NamedTuple):
    """The parts of a loaded encoder."""

    causal_lm: PreTrainedModel
    decoder: nn.Module
    lm_head: nn.Module
    packs: bool
    unused: tuple[str, ...]
    origin: Origin | None


def load_parts(encoder: Encoder, mesh: DeviceMesh | None, device: torch.device | None) -> Parts:
    """Reads an encoder's weights and prepares them as its arguments say.

    Args:
        encoder: constructed, but not loaded.
        mesh: the ranks that share the decoder's weights; None keeps them whole.
        device: where sharded and quantized weights go; others stay on the CPU.

    Raises:
        UserError: if the weights or an adapter do not fit.
    """
    device = device or torch.device("cpu")
    if device.type == "cpu":
        limit_threads()
    if encoder.compile_decoder:
        require_compiler(device)
    on_top = kept_on_top(encoder)
    origin = None if encoder.random_weights else origin_of(encoder.source, encoder.adapters)
    require_origin(encoder, origin)
    _warn_of_other_weights(encoder)
    with _in_float32():
        model, files = _read(encoder, mesh, device, origin, len(encoder.adapters) - len(on_top))
        places = slots_of(model)  # before a LoRA gives them other names
        if encoder.bidirectional:
            make_bidirectional(model)
        decoder, lm_head = split_causal_lm(model)
        if encoder.quantization == INT8_DYNAMIC:  # the encoder rounds later, when it can embed
            require_quantizable(decoder, mesh, device)
        decoder = _adapted(encoder, decoder)
        if on_top:
            from llm2vec_pl.lora import put_on_top

            put_on_top(model, on_top, trained=bool(encoder.lora_rank))
        unused = () if encoder.lora_rank else freeze_unused(decoder)
        if not encoder.random_weights:
            freeze_beside(lm_head, decoder)
        if mesh is not None:
            shard_decoder(decoder, lm_head, mesh)
        if files is not None:
            files.read_parameters(places, device)
            decoder._apply(lambda tensor: tensor)  # so that FSDP2 notices the new parameters
        if encoder.quantization in BITSANDBYTES:
            keep_unpacked(decoder)
        packs = encoder.padding_free and can_pack(decoder)
        if encoder.compile_decoder:
            compile_layers(decoder)
    return Parts(model, decoder, lm_head, packs, unused, origin)


def kept_on_top(encoder: Encoder) -> list[str]:
    """The adapters that stay unmerged on quantized weights: those that were trained on them.

    To merge them, they would have to be added to the weights before rounding, on which they were
    not trained: the embeddings would not be those that were validated.
    """
    kept: list[str] = []
    if encoder.quantization in BITSANDBYTES:
        for folder in reversed(encoder.adapters):
            if adapter_settings(folder).get("quantization") != encoder.quantization:
                break
            kept.insert(0, folder)
    return kept


def _warn_of_other_weights(encoder: Encoder) -> None:
    """Warns if an adapter that was trained on quantized weights is merged into others."""
    kinds = {adapter_settings(f).get("quantization") for f in encoder.adapters}
    others = sorted(str(kind) for kind in kinds - {None, encoder.quantization})
    if others:
        now = encoder.quantization or "full precision"
        warnings.warn(
            f"An adapter that was trained on weights in {others[0]} is merged into those in {now}. "
            "Its embeddings are close to those that were validated, but not the same. For the same "
            f"embeddings, set `quantization={others[0]!r}`.",
            stacklevel=2,
        )


def adapters_below(encoder: Encoder) -> list[str]:
    """The adapters that are saved beside an encoder, since its saved weights lack them."""
    if encoder.lora_rank:
        return encoder.adapters
    return encoder.adapters[:-1] if kept_on_top(encoder) else []


def _read(
    encoder: Encoder,
    mesh: DeviceMesh | None,
    device: torch.device,
    origin: Origin | None,
    merged: int,
) -> tuple[Any, WeightFiles | None]:
    """The causal language model, and the files to fill it from if it is still empty.

    The first `merged` adapters are merged into its weights.
    """
    dtype = getattr(torch, encoder.dtype)
    causal = not encoder.bidirectional
    how = (encoder.attention, encoder.attention_dropout, encoder.trust_remote_code, causal)
    source = encoder.source
    if encoder.random_weights:
        return random_weights(source, encoder.config, dtype, *how), None
    if merged and origin is not None:
        from llm2vec_pl.encoder.merging import (  # peft takes seconds to import
            merged_source,
            merged_weights,
        )

        adapters = encoder.adapters[:merged]
        if mesh is None and encoder.quantization not in BITSANDBYTES:
            return merged_weights(source, adapters, dtype, *how), None
        below = Origin(origin.base, origin.adapters[:merged])
        source = merged_source(source, adapters, below, dtype, encoder.trust_remote_code)
    if encoder.quantization in BITSANDBYTES:
        quantized = quantization_config(encoder.quantization, dtype, device)
        return read_weights(source, dtype, *how, quantized, device), None
    # DoRA computes its magnitudes from the weights, so they must be there first.
    if mesh is not None and not encoder.lora_options["dora"]:
        model = empty_weights(source, dtype, *how)
        if files := WeightFiles.of(source, model):
            files.read_buffers(model)
            return model, files
        warnings.warn(
            f"The files of {source.base_name} hold its weights in another form than the model "
            "uses: each rank reads the whole model before it keeps its share, and needs memory "
            "for all of it.",
            stacklevel=2,
        )
    return read_weights(source, dtype, *how), None


def _adapted(encoder: Encoder, decoder: Any) -> Any:
    """The decoder, ready to be trained: with gradient checkpointing and a LoRA, if any."""
    if encoder.gradient_checkpointing:
        decoder.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
        _forget_input_hooks(decoder)
    if not encoder.lora_rank:
        return decoder
    from llm2vec_pl.lora import add_lora

    base = encoder.source.recorded_base
    adapted: Any = add_lora(decoder, base, encoder.lora_rank, **encoder.lora_options)
    if encoder.gradient_checkpointing:
        _forget_input_hooks(adapted)
    for config in adapted.peft_config.values():
        # peft records the folder that the weights were read from, which may be in a cache.
        config.base_model_name_or_path = base
        config.revision = encoder.source.revision
    return adapted


def _forget_input_hooks(decoder: Any) -> None:
    """Removes the hooks of transformers and peft on the embedding, for reentrant checkpointing.

    Ours is not reentrant, and such hooks cannot be pickled.
    """
    decoder.get_input_embeddings()._forward_hooks.clear()


def freeze_unused(decoder: nn.Module) -> tuple[str, ...]:
    """Freezes the weights that a text's states do not depend on, and returns their names.

    Nothing could train them, and an optimizer's weight decay would only shrink them.
    """
    if not all(p.is_floating_point() for p in decoder.parameters()):
        return ()  # quantized, and not trained
    used = used_weights(decoder)
    trained = {name: p for name, p in decoder.named_parameters() if p.requires_grad}
    unused = {name: p.requires_grad_(False) for name, p in trained.items() if name not in used}
    return tuple(unused)


def freeze_beside(lm_head: nn.Module, decoder: nn.Module) -> None:
    """Freezes the head's own weights, such as its bias, but not those tied to the decoder."""
    shared = set(decoder.parameters())
    for p in lm_head.parameters():
        if p not in shared:
            p.requires_grad_(False)


@contextlib.contextmanager
def _in_float32() -> Iterator[None]:
    """Creates tensors in float32 by default, also under Lightning's precision `bf16-true`."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
