"""Padding-free batches: texts laid end to end, (1, T), each attending to itself only.

A batch that is padded to its longest text spends most of its time on padding. Here only the real
tokens go through the decoder, and only attention knows where a text ends. No modelling code is
changed: transformers builds masks and calls attention through two registries, whose entries are
wrapped. While a packed batch runs, they build an object in place of the mask that says where the
texts are, and attention that gets one handles each text alone. Every layer gets the mask as an
argument, so a layer that runs again in the backward pass (gradient checkpointing) gets that of its
own batch.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llm2vec_pl.bidirectional import (
    accepts_position_ids,
    install_symmetric_masks,
    is_causal_module,
    mark,
    text_config,
    wraps_as,
)
from llm2vec_pl.decoder import evaluating
from llm2vec_pl.distributed import forget_unfinished_pass
from llm2vec_pl.encoder.packing import PackedTexts, pack_texts
from llm2vec_pl.encoder.short_attention import computed_dtype, for_short_texts

varlen_attn: Any = None
with contextlib.suppress(ImportError):
    from torch.nn.attention.varlen import varlen_attn
if varlen_attn and "enable_gqa" not in inspect.signature(varlen_attn).parameters:
    varlen_attn = None  # an earlier torch, whose function took neither windows nor grouped queries

FLASH = ("flash_attention_2", "flash_attention_3")
PACKED = ("sdpa", *FLASH)
"""transformers' attention implementations that can run packed texts."""

VARLEN_HEAD = 256
"""The largest head size that the kernel behind `varlen_attn` takes."""


def packed_states(decoder: nn.Module, input_ids: Tensor, texts: PackedTexts) -> Tensor:
    """The decoder's last states of the real tokens of a batch.

    Args:
        decoder: one that `can_pack`, and whose attention `takes_packed`.
        input_ids: the padded batch, (B, L).
        texts: where its real tokens go.

    Returns:
        (T, D), in the order of `texts.index`.
    """
    reset = _current.set(texts)
    try:
        output = decoder(
            input_ids=input_ids.flatten()[texts.index][None],
            # Without it transformers looks for packed texts by itself, and masks some of them.
            attention_mask=torch.ones_like(texts.position_ids)[None],
            position_ids=texts.position_ids[None],
            use_cache=False,
        )
    finally:
        _current.reset(reset)
    states: Tensor = output.last_hidden_state[0]
    return states


# The registries ---------------------------------------------------------------------------------

_current: ContextVar[PackedTexts | None] = ContextVar("packed texts", default=None)


@dataclass(frozen=True)
class PackedMask:
    """Takes the place of a mask when texts are packed.

    Args:
        texts: where they are.
        of_length: gives the ordinary mask of a single text of L tokens, (1, 1, L, L), or None.
        window: how many tokens a token sees on each side, itself included; None for all.
        is_band: whether the window alone describes the mask.
    """

    texts: PackedTexts
    of_length: Callable[[int], Tensor | None]
    window: int | None
    is_band: bool


def install_packing() -> None:
    """Lets transformers' attention take packed texts; batches that are not packed run as before.

    The registries belong to a process, so each process that runs packed texts has to do this. A
    second call wraps what others have registered since then, and otherwise changes nothing.
    """
    install_symmetric_masks()  # must come first: packed masks are made of these
    masks, functions = AttentionMaskInterface(), AttentionInterface()
    for name in PACKED:
        build, attend = masks[name], functions[name]
        if not wraps_as(build, _mask_builder):
            masks.register(name, mark(_mask_builder(build), _mask_builder))
        if not wraps_as(attend, _attention):
            functions.register(name, mark(_attention(name, attend), _attention))


def attention_modules(decoder: nn.Module) -> list[nn.Module]:
    """The modules whose configuration says which attention function runs."""
    return [m for m in decoder.modules() if hasattr(vars(m).get("config"), "_attn_implementation")]


def takes_packed(modules: list[nn.Module]) -> bool:
    """Whether these modules currently call attention that takes packed texts.

    The attention can change at any time: by `set_attn_implementation`, or when someone registers a
    function of their own.

    Args:
        modules: a decoder's `attention_modules`.
    """
    names = {vars(module)["config"]._attn_implementation for module in modules}
    if not names <= set(PACKED):
        return False
    install_packing()
    return all(
        wraps_as(ALL_MASK_ATTENTION_FUNCTIONS[name], _mask_builder)
        and wraps_as(ALL_ATTENTION_FUNCTIONS[name], _attention)
        for name in names
    )


def _mask_builder(build: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(build)
    def build_packed(*args: Any, **kwargs: Any) -> Any:
        texts = _current.get()
        if texts is None:
            return build(*args, **kwargs)
        alone = {**kwargs, "batch_size": 1, "attention_mask": None}

        @functools.cache
        def of_length(size: int) -> Any:
            reset = _current.set(None)
            try:
                return build(**{**alone, "q_length": size, "kv_length": size})
            finally:
                _current.reset(reset)

        chunks = getattr(kwargs.get("config"), "attention_chunk_size", None)
        return PackedMask(
            texts,
            of_length,
            window=kwargs.get("local_size"),
            is_band=not chunks and not kwargs.get("use_vmap"),  # use_vmap: an unusual pattern
        )

    return build_packed


def _attention(name: str, attend: Callable[..., Any]) -> Callable[..., Any]:
    alone = without_idle_masks(for_short_texts(attend)) if name == "sdpa" else attend

    @functools.wraps(attend)
    def attend_packed(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        **kwargs: Any,
    ) -> Any:
        states = (query, key, value)
        if not isinstance(attention_mask, PackedMask):
            return alone(module, *states, attention_mask, **kwargs)
        return attend_texts(module, *states, attention_mask, **kwargs)

    # Its code depends on the texts of each batch: a compiled layer calls it from outside.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def attend_texts(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: PackedMask,
        **kwargs: Any,
    ) -> Any:
        states = (query, key, value)
        if name in FLASH:
            return attend(module, *states, None, **kwargs, **flash_arguments(mask.texts))
        if takes_varlen(*states, mask, **kwargs):
            return varlen_attention(module, *states, mask, **kwargs)
        return text_by_text(alone, module, *states, mask, **kwargs)

    return attend_packed


# Attention --------------------------------------------------------------------------------------


def without_idle_masks(attend: Callable[..., Any]) -> Callable[..., Any]:
    """An attention function that gets no mask on a CPU where the mask hides nothing.

    Gemma 3 always makes masks for its layers with a window, however short the texts. Attention
    without a mask is faster, and `short_attention` takes none. On a GPU the host would have to wait
    for the answer.
    """

    @functools.wraps(attend)
    def attend_unmasked(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
    ) -> Any:
        if mask is not None and hides_nothing(module, query, mask, kwargs.get("is_causal")):
            mask = None
        return attend(module, query, key, value, mask, **kwargs)

    return attend_unmasked


def hides_nothing(
    module: nn.Module, query: Tensor, mask: Tensor, is_causal: bool | None = None
) -> bool:
    """Whether a bidirectional attention module on a CPU can do without this mask, bool."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    return (
        not causal
        and query.device.type == "cpu"
        and mask.dtype == torch.bool
        and type(mask) is Tensor  # a fake one, of an estimate of memory, has no values
        and not torch.compiler.is_compiling()
        and bool(mask.all())
    )


def text_by_text(
    attend: Callable[..., Any],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: PackedMask,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Runs transformers' own attention, once for all texts of the same length.

    Args:
        attend: transformers' attention function.
        module: the attention module, which says whether it is causal.
        query: H heads of size E, (1, H, T, E).
        key: (1, G, T, E), where G divides H.
        value: (1, G, T, E).
        mask: where the texts are.
        kwargs: what the module passes on, such as its scaling and dropout.

    Returns:
        (1, T, H, E), and None for the weights.
    """
    groups = mask.texts.groups
    sizes = [count * length for count, length in groups]
    # With slices, the backward pass would make a gradient of the whole (1, H, T, E) for each.
    parts = zip(*(states[0].split(sizes, dim=1) for states in (query, key, value)), strict=True)
    outputs = []
    for (count, length), part in zip(groups, parts, strict=True):
        rows = [states.unflatten(1, (count, length)).transpose(0, 1) for states in part]
        output, _ = attend(module, *rows, mask.of_length(length), **kwargs)  # (count, length, H, E)
        outputs.append(output.flatten(0, 1))
    return torch.cat(outputs)[None], None


def takes_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: PackedMask,
    dropout: float = 0.0,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> bool:
    """Whether `varlen_attention` can run this: on CUDA, in half precision, without dropout."""
    return (
        varlen_attn is not None
        and query.is_cuda
        and computed_dtype(query) in (torch.bfloat16, torch.float16)
        and query.shape[-1] == value.shape[-1] <= VARLEN_HEAD
        and mask.is_band
        and not dropout
        and softcap is None
        and position_bias is None
    )


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: PackedMask,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """All texts in one call of PyTorch's FlashAttention; arguments and result as `text_by_text`."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    reach = -1 if mask.window is None else mask.window - 1
    boundaries, longest = mask.texts.boundaries, mask.texts.longest
    output: Any = varlen_attn(
        *(x[0].transpose(0, 1).to(computed_dtype(x)) for x in (query, key, value)),  # (T, H, E)
        *(boundaries, boundaries, longest, longest),
        scale=scaling,
        window_size=(reach, 0 if causal else reach),
        enable_gqa=query.shape[1] != key.shape[1],
    )  # (T, H, E)
    return output[None], None


def flash_arguments(texts: PackedTexts) -> dict[str, Any]:
    """What transformers' FlashAttention takes in place of a mask."""
    return {
        "cu_seq_lens_q": texts.boundaries,
        "cu_seq_lens_k": texts.boundaries,
        "max_length_q": texts.longest,
        "max_length_k": texts.longest,
    }


# The check --------------------------------------------------------------------------------------


@torch.no_grad()
def can_pack(decoder: nn.Module) -> bool:
    """Whether texts laid end to end get the same states as in a padded batch.

    Two forward passes of the loaded model over four short texts decide. It has to call attention
    through transformers' registry, pass the mask through, and use the positions that it is given.
    Convolutions and recurrences cannot pack: they run on from one text into the next.

    Args:
        decoder: with its weights, on any device and in any dtype; if it is sharded, call this on
            all ranks.
    """
    config: Any = text_config(decoder)
    if config._attn_implementation not in PACKED or not accepts_position_ids(decoder):
        return False
    if any(is_causal_module(module) for module in decoder.modules()):
        return False
    install_packing()
    embedding = decoder.get_input_embeddings().weight  # type: ignore[operator]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, min(100, len(embedding)), (4, 5), generator=generator)
    mask = (torch.arange(5) < torch.tensor([3, 1, 5, 3])[:, None]).long()
    ids, mask = ids.to(embedding.device), mask.to(embedding.device)
    texts = pack_texts(mask)
    assert texts is not None
    try:
        with evaluating(decoder), _sdpa(config):
            padded = decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            packed = packed_states(decoder, ids, texts)
    # Any exception: modelling code that does not expect such a mask may fail in any way.
    except Exception:
        forget_unfinished_pass(decoder)
        return False
    expected = padded.flatten(0, 1)[texts.index]  # (T, D)
    error = (packed - expected).float().norm() / expected.float().norm()
    return bool(error < (1e-4 if packed.dtype == torch.float32 else 5e-2))


@contextlib.contextmanager
def _sdpa(config: Any) -> Iterator[None]:
    """Runs sdpa instead of FlashAttention, which cannot run before the model is on its GPU."""
    name = config._attn_implementation
    config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        config._attn_implementation = name
