"""Where an encoder's weights come from: read from disk or the hub, or drawn at random."""

from __future__ import annotations

import copy
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PretrainedConfig, PreTrainedModel

from llm2vec_pl.bidirectional import make_causal
from llm2vec_pl.decoder import ATTENTION_DROPOUTS, FIXED_ATTENTION_DROPOUT, Source
from llm2vec_pl.errors import UserError
from llm2vec_pl.lora import EARLIER_NAME


def read_weights(
    source: Source,
    dtype: torch.dtype,
    attention: str | None = None,
    attention_dropout: float | None = None,
    trust_remote_code: bool = False,
    causal: bool = False,
    quantization: Any = None,
    device: torch.device | None = None,
) -> PreTrainedModel:
    """The causal language model with its weights, in evaluation mode.

    Args:
        source: where they are.
        dtype: of the weights.
        attention: transformers' attention implementation; the architecture's best one if None.
        attention_dropout: probability of dropping an attention weight; the model's own if None.
        trust_remote_code: run modelling code that comes with the weights.
        causal: build a causal model, whatever the configuration says.
        quantization: transformers' quantization configuration, if any.
        device: where quantized weights go; others are read onto the CPU.

    Raises:
        UserError: if they cannot be read.
    """
    from transformers import AutoConfig

    place = {"revision": source.revision, "trust_remote_code": trust_remote_code}
    quantized = {"quantization_config": quantization, "device_map": {"": device}}
    try:
        config = AutoConfig.from_pretrained(source.base, **place)
        if causal:
            make_causal(config)
        own = _set_attention_dropout(config, attention_dropout)
        model: PreTrainedModel = causal_lm_class(config).from_pretrained(
            source.base,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            **(quantized if quantization else {}),
            **place,
        )
    except (ImportError, OSError, ValueError) as error:
        raise _not_loaded(source, error) from error
    return _forget_attention_dropout(model, own)


def random_weights(
    source: Source,
    config: PretrainedConfig,
    dtype: torch.dtype,
    attention: str | None = None,
    attention_dropout: float | None = None,
    trust_remote_code: bool = False,
    causal: bool = False,
) -> PreTrainedModel:
    """A causal language model with random weights; arguments as in `read_weights`."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    if causal:
        make_causal(config)
    own = _set_attention_dropout(config, attention_dropout)
    known, how = causal_lm_class(config), {"dtype": dtype, "attn_implementation": attention}
    try:
        model: PreTrainedModel = (
            known.from_config(config, **how, trust_remote_code=trust_remote_code)
            if known is AutoModelForCausalLM
            else known._from_config(config, **how)
        )
    except (ImportError, OSError, ValueError) as error:
        raise _not_loaded(source, error) from error
    return _forget_attention_dropout(model, own)


def empty_weights(source: Source, dtype: torch.dtype, *how: Any) -> PreTrainedModel:
    """The causal language model without memory for its weights: parameters on the meta device.

    Buffers are real. It is in training mode; arguments as in `read_weights`.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        source.base, revision=source.revision, trust_remote_code=how[2] if how else False
    )
    # Some modelling code draws random numbers even for weights without memory. Those that a LoRA
    # is drawn from must not depend on this.
    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
        model = random_weights(source, config, dtype, *how)
    model.tie_weights()  # each use was given its own parameter
    return model


def causal_lm_class(config: PretrainedConfig) -> Any:
    """The class that loads this configuration's causal language model.

    This is `AutoModelForCausalLM`, if it can. It knows the text models of mllama and emu3 only as
    parts of a model that reads images too. Saved on their own, as full fine-tuning leaves them,
    they are opened by their own class.
    """
    from transformers import AutoModelForCausalLM

    if hasattr(config, "auto_map") or type(config) in AutoModelForCausalLM._model_mapping:
        return AutoModelForCausalLM
    try:
        modelling = import_module(type(config).__module__.replace("configuration_", "modeling_"))
    except ImportError:
        return AutoModelForCausalLM
    for name, found in vars(modelling).items():
        if name.endswith("ForCausalLM") and getattr(found, "config_class", None) is type(config):
            return found
    return AutoModelForCausalLM


def cast_weights(encoder: nn.Module, dtype: torch.dtype) -> None:
    """Casts an encoder's weights in place, except for those of adapters.

    Buffers stay as they are, since positions need float32. So do sharded weights, which were cast
    as they were read.

    Args:
        encoder: with its weights.
        dtype: floating.
    """
    decoder: Any = getattr(encoder, "decoder", None)
    adapted = hasattr(decoder, "peft_config")
    for name, p in encoder.named_parameters():
        of_an_adapter = adapted and (p.requires_grad or f".{EARLIER_NAME}" in name)
        if p.is_floating_point() and not isinstance(p, DTensor) and not of_an_adapter:
            p.data = p.data.to(dtype)


def require_attention_dropout(config: PretrainedConfig, dropout: float | None) -> None:
    """Checks that attention can drop this share of its weights.

    Args:
        config: of the text decoder.
        dropout: probability of dropping an attention weight; None is always possible.

    Raises:
        UserError: if it is not a probability, or the architecture's attention has no dropout.
    """
    if dropout is not None and not 0.0 <= dropout < 1.0:
        raise UserError(f"`attention_dropout` lies in [0, 1), but got {dropout}.")
    if dropout and _entry(config) is None:
        raise UserError(
            f"`attention_dropout={dropout}`: the attention of {config.model_type} has no dropout "
            "that its configuration sets. Leave it out, and set `lora_dropout` instead."
        )


def _entry(config: PretrainedConfig) -> str | None:
    """The configuration entry that holds the dropout of attention."""
    if config.model_type in FIXED_ATTENTION_DROPOUT:
        return None
    return next((name for name in ATTENTION_DROPOUTS if hasattr(config, name)), None)


def _set_attention_dropout(config: PretrainedConfig, dropout: float | None) -> dict[str, Any]:
    """Writes the dropout where modules find it when they are built; returns the former value."""
    text = config.get_text_config(decoder=True)
    name = _entry(text)
    if dropout is None or name is None:
        return {}
    own = {name: getattr(text, name)}
    setattr(text, name, dropout)
    return own


def _forget_attention_dropout(model: PreTrainedModel, own: dict[str, Any]) -> PreTrainedModel:
    """Restores the configuration, which is saved: the next stage must not inherit the dropout."""
    text: Any = type(model.config.get_text_config(decoder=True))
    for module in model.modules():
        config = getattr(module, "config", None)
        if type(config) is text:
            for name, value in own.items():
                setattr(config, name, value)
    return model


def _not_loaded(source: Source, error: Exception) -> UserError:
    return UserError(f"The weights of {source.base_name} could not be loaded: {error}")
