"""Step 1: the decoder sees both ways (LLM2Vec, section 2.1), and the probe that proves it.

`make_bidirectional` sets transformers' own switch, `config.is_causal = False`, and closes the gaps
that the switch leaves; no modelling code is replaced. `check_bidirectional` then asks the loaded
model itself, layer by layer, which tokens each token sees.
"""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from llm2vec_pl.bidirectional.even_attention import EvenAttention
from llm2vec_pl.bidirectional.probe import influence_fault, token_influence
from llm2vec_pl.decoder import (
    BIDIRECTIONAL_ATTENTION_FLAG,
    CAUSAL_MODULES,
    REFUSED,
    TRIANGULAR_BUFFERS,
    WINDOW_SIZES,
    decoder_layers,
    evaluating,
)
from llm2vec_pl.distributed import backward_within_forward
from llm2vec_pl.errors import UserError

MaskFunction = Callable[[Any, Any, Any, Any], Any]


class BidirectionalityError(RuntimeError):
    """A model that should see both ways does not, or its padding changes its results."""


def make_bidirectional(model: PreTrainedModel) -> PreTrainedModel:
    """Lets every token of the decoder attend to every other, before and after it.

    Works in place, once the weights are loaded and before peft wraps the model; a second call
    changes nothing. Sliding windows keep their width W on both sides, |i - j| <= W - 1, as in
    FlashAttention. The switch is saved with the configuration.

    Args:
        model: a decoder, with or without a language modelling head.

    Returns:
        The same model.

    Raises:
        UserError: if the architecture has no attention over the whole text.

    >>> from transformers import AutoModel, LlamaConfig
    >>> decoder = AutoModel.from_config(LlamaConfig(hidden_size=8, num_hidden_layers=1,
    ...     intermediate_size=8, num_attention_heads=2, vocab_size=16))
    >>> make_bidirectional(decoder).config.is_causal
    False
    """
    refuse_unsupported(model.config)
    own_configs(model)
    turn_switch(model)
    turn_modules(model)
    install_symmetric_masks()
    take_masks_along(model)
    warn_of_causal_modules(model)
    return model


def refuse_unsupported(config: PretrainedConfig) -> None:
    """Raises a UserError for an architecture that has no attention over the whole text."""
    model_type = config.get_text_config(decoder=True).model_type
    if model_type in REFUSED:
        raise UserError(
            f"Step 1 needs a decoder whose attention can see the whole text, but {model_type} "
            f"cannot: {REFUSED[model_type]}. Choose a model with attention in every layer, such as "
            "Llama, Mistral or Qwen3."
        )


def text_config(model: nn.Module) -> PretrainedConfig:
    """The configuration that attention reads: in a composite model, that of the text decoder."""
    config: Any = model.config
    text: PretrainedConfig = config.get_text_config(decoder=True)
    return text


def own_configs(model: PreTrainedModel) -> None:
    """Gives the model its own copies of its configurations, the same in all of its modules."""
    copies: dict[int, Any] = {}  # one memo: what was one object stays one object
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, PretrainedConfig):
                setattr(module, name, copy.deepcopy(value, copies))


def turn_switch(model: PreTrainedModel) -> None:
    """Writes both spellings of the switch: serving stacks read one or the other."""
    text = text_config(model)
    flag = BIDIRECTIONAL_ATTENTION_FLAG.get(text.model_type, True)
    inner = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    for config in (text, *inner):
        if type(config) is type(text):  # a composite model's decoder has a copy of its own
            config.is_causal = False
            if flag is not None:
                config.use_bidirectional_attention = flag


def turn_modules(model: PreTrainedModel) -> None:
    """Switches modules that do not read the configuration's switch, or not on every path."""
    triangular = text_config(model).model_type in TRIANGULAR_BUFFERS
    for module in model.modules():
        # nemotron and stablelm do not pass the switch on: without padding, on sdpa and flash,
        # this attribute decides.
        if isinstance(vars(module).get("is_causal"), bool):
            setattr(module, "is_causal", False)  # noqa: B010
        mask = module._buffers.get("bias") if triangular else None
        if mask is not None:
            module.bias = torch.maximum(mask, mask.mT)  # (1, 1, L, L)


def warn_of_causal_modules(model: PreTrainedModel) -> None:
    """Warns which parts of a hybrid keep reading from left to right."""
    causal = sorted({type(m).__name__ for m in model.modules() if is_causal_module(m)})
    if causal:
        warnings.warn(
            f"{text_config(model).model_type} is a hybrid: its attention becomes bidirectional, "
            f"but {', '.join(causal)} still read from left to right.",
            stacklevel=3,
        )


def is_causal_module(module: nn.Module) -> bool:
    """Whether this is a convolution or recurrence that no mask can make bidirectional."""
    return any(part in type(module).__name__ for part in CAUSAL_MODULES)


# Masks ------------------------------------------------------------------------------------------


def install_symmetric_masks() -> None:
    """Lets transformers build symmetric masks for configurations with `is_causal = False`.

    Its own masks for these are one token wider than FlashAttention's in sliding layers, still
    causal in chunked layers, and missing in eager attention without padding, which crashes mpt and
    modernbert-decoder. Other configurations keep their usual masks. A second call changes nothing.
    """
    for name in ("eager", "sdpa", "flex_attention"):
        original = ALL_MASK_ATTENTION_FUNCTIONS[name]
        if not wraps_as(original, symmetric_masks):
            wrapper = symmetric_masks(name, original)
            ALL_MASK_ATTENTION_FUNCTIONS.register(name, mark(wrapper, symmetric_masks))


def take_masks_along(model: PreTrainedModel) -> None:
    """Lets a copy of the model in another process install the masks when it is unpickled.

    The registry belongs to a process and the model's class to transformers, so nothing else would
    import this module there.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            vars(module)["_symmetric_masks"] = SymmetricMasks()


class SymmetricMasks:
    """Travels with a bidirectional model, and installs the masks when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _installed_masks, ()


def _installed_masks() -> SymmetricMasks:
    install_symmetric_masks()
    return SymmetricMasks()


def mark(wrapper: Callable[..., Any], maker: Callable[..., Any]) -> Callable[..., Any]:
    """Records, on an entry of a registry of transformers, which of our functions wrapped it."""
    setattr(wrapper, "wrapped_by", maker)  # noqa: B010
    return wrapper


def wraps_as(entry: Any, maker: Callable[..., Any]) -> bool:
    """Whether this function wrapped an entry of a registry, or an entry inside it."""
    while entry is not None:
        if getattr(entry, "wrapped_by", None) is maker:
            return True
        entry = getattr(entry, "__wrapped__", None)
    return False


def wrapped_by_us(entry: Any) -> bool:
    """Whether `mark` has marked this entry of a registry."""
    return getattr(entry, "wrapped_by", None) is not None


def symmetric_masks(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """The mask builder `original`, symmetric if the configuration asks for it."""

    @functools.wraps(original)
    def build(*args: Any, **kwargs: Any) -> Any:
        if getattr(kwargs.get("config"), "is_causal", None) is not False:
            return original(*args, **kwargs)
        may_skip = kwargs.get("allow_is_causal_skip") or kwargs.get("allow_is_bidirectional_skip")
        kwargs["mask_function"] = symmetric(kwargs["mask_function"], kwargs.get("local_size"))
        kwargs["allow_is_causal_skip"] = False
        kwargs["allow_is_bidirectional_skip"] = bool(may_skip) and name == "sdpa"
        return original(*args, **kwargs)

    return build


def symmetric(mask: MaskFunction, window: int | None) -> MaskFunction:
    """Token i sees j if either saw the other, and if they are at most `window` - 1 tokens apart."""

    def sees(batch: Any, head: Any, i: Any, j: Any) -> Any:
        either = mask(batch, head, i, j) | mask(batch, head, j, i)
        return either if window is None else either & (abs(i - j) < window)

    return sees


# Padding ----------------------------------------------------------------------------------------


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions that count real tokens only, so that padding on the left shifts nothing.

    Args:
        attention_mask: 1 on real tokens, 0 on padding, (B, L).

    Returns:
        The position of each token, (B, L); padding gets that of a neighbour.

    >>> position_ids(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])).tolist()
    [[0, 0, 0, 1], [0, 1, 2, 2]]
    """
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)  # (B, L)


def accepts_position_ids(model: nn.Module) -> bool:
    """Whether the model's `forward` takes `position_ids`, seen through a peft wrapper."""
    wrapper: Any = model
    inner = wrapper.get_base_model() if hasattr(model, "get_base_model") else model
    return "position_ids" in inspect.signature(inner.forward).parameters


# The probe --------------------------------------------------------------------------------------


def check_bidirectional(model: nn.Module, *, length: int = 8, padding: int = 3) -> None:
    """Checks that every token sees every other in each layer, and that none sees padding.

    A decoder that silently stayed causal trains and embeds without complaint, only worse. This
    check asks the loaded model: three forward passes over one short text, without padding, with
    padding on the right, and on the left. In a hybrid, layers with a causal branch are exempt.

    Args:
        model: the decoder, with or without head and peft wrapper, on any device and in any dtype;
            if it is sharded, call this on all ranks at once.
        length: tokens of the text; fewer if the attention's windows are narrower.
        padding: number of padding tokens beside it.

    Raises:
        BidirectionalityError: names the architecture, the layers and what is wrong with them.
    """
    config = text_config(model)
    windows = [size for name in WINDOW_SIZES if (size := getattr(config, name, None))]
    real, pads = torch.ones(min([length, *windows])), torch.zeros(padding)
    layouts = {
        "without padding": real,
        "with padding on the right": torch.cat([real, pads]),
        "with padding on the left": torch.cat([pads, real]),
    }
    faults = [
        f"{fault} {layout}"
        for layout, attention_mask in layouts.items()
        for fault in layer_faults(model, attention_mask.long())
    ]
    if faults:
        raise BidirectionalityError(
            f"check_bidirectional expects each token to see every other in {config.model_type} "
            f"({config._attn_implementation} attention), but: {'; '.join(faults)}. Call "
            f"make_bidirectional on the loaded model, or try attn_implementation='eager'."
        )


def layer_faults(model: nn.Module, attention_mask: Tensor) -> list[str]:
    """What is wrong in which layers, for one text with this mask (L,).

    With large queries, most attention weights round to zero in their number format. If something
    seems wrong, a second look with even attention decides.
    """
    if not _faults(model, attention_mask):
        return []
    with EvenAttention(len(attention_mask)):
        return _faults(model, attention_mask)


def _faults(model: nn.Module, attention_mask: Tensor) -> list[str]:
    layers = decoder_layers(model)
    with evaluating(model), backward_within_forward(model):
        influences = token_influence(
            lambda: model(**probe_inputs(model, attention_mask), use_cache=False),
            layers,
            length=len(attention_mask),
        )
    real = attention_mask.bool()
    found = {name: influence_fault(influence, real) for name, influence in influences.items()}
    faults: dict[str, list[str]] = {}
    for name, fault in found.items():
        if fault and not any(is_causal_module(module) for module in layers[name].modules()):
            faults.setdefault(fault, []).append(name)
    if not faults and not any(influence[real][:, real].all() for influence in influences.values()):
        return ["no layer mixes all tokens"]
    return [f"{', '.join(names)} {fault}" for fault, names in faults.items()]


def probe_inputs(model: Any, attention_mask: Tensor) -> dict[str, Tensor]:
    """One random text with this mask (L,), repeated once for each of its tokens: (L, L)."""
    embedding = model.get_input_embeddings().weight
    length = len(attention_mask)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, min(100, len(embedding)), (length,), generator=generator)
    inputs = {"input_ids": ids, "attention_mask": attention_mask}
    if accepts_position_ids(model):
        inputs["position_ids"] = position_ids(attention_mask)
    return {k: v.expand(length, length).to(embedding.device) for k, v in inputs.items()}
