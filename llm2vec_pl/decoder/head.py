"""The language modelling head, apart from its decoder: states -> logits of the next token.

MNTP (LLM2Vec, section 2.2) needs logits at a few positions only, so the head is called on chosen
states instead of inside the causal model's `forward`.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

FACTORS = ("logit_scale", "lm_head_multiplier")
"""Configuration entries that multiply the logits: Cohere, Falcon-H1."""

DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")
"""Configuration entries that divide the logits: Granite and MiniCPM3, Inkling."""

SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap")
"""Configuration entries that bound the logits: Gemma, NanoChat; RecurrentGemma."""

MULTIPLIES_BY_ITS_DIVISOR = ("hyperclovax",)
"""Architectures whose `logits_scaling` is a factor."""

IGNORES_ITS_FACTOR = ("mpt",)
"""Architectures whose `logit_scale` transformers does not apply."""


def split_causal_lm(model: PreTrainedModel) -> tuple[PreTrainedModel, nn.Module]:
    """The text decoder and the output head of a causal language model, sharing its weights.

    The decoder is what `AutoModel` would load, so that adapters trained on it open there; in a
    composite model it is the text model without the towers of other modalities. transformers'
    `get_decoder` and `base_model` do not always return it: on modernbert-decoder, `get_decoder`
    returns the output embedding; on llama4 and mllama, both return the model itself.

    Args:
        model: from `AutoModelForCausalLM`, without a peft wrapper.

    Returns:
        The decoder, and a module from states (..., D) to raw logits (..., V).

    Raises:
        ValueError: if the model has no decoder inside, or no head.
    """
    text = type(model.config.get_text_config(decoder=True))
    decoder = next(
        (
            module
            for module in model.modules()
            if module is not model
            and isinstance(module, PreTrainedModel)
            and type(module.config) is text
        ),
        None,
    )
    head = model.get_output_embeddings()
    if decoder is None or head is None:
        raise ValueError(
            f"split_causal_lm expects a decoder with a language modelling head, but got "
            f"{type(model).__name__}. Load the model with AutoModelForCausalLM."
        )
    if decoder.config.model_type == "modernbert-decoder":  # a dense layer lies in between
        head = nn.Sequential(model.lm_head, head)
    return decoder, head


def head_logits(hidden_states: Tensor, lm_head: nn.Module, config: PretrainedConfig) -> Tensor:
    """The logits that the causal language model itself would give for these states.

    Many architectures scale or bound what their head returns, as their configuration says.

    Args:
        hidden_states: the decoder's last hidden states, (M, D).
        lm_head: the head from `split_causal_lm`.
        config: the decoder's configuration.

    Returns:
        Logits of the next token, (M, V).
    """
    config = config.get_text_config(decoder=True)
    dtype = next(lm_head.parameters()).dtype
    if dtype.is_floating_point:  # hy_v4's head is in float32, its layers in bfloat16
        hidden_states = hidden_states.to(dtype)
    logits: Tensor = lm_head(hidden_states) * logit_factor(config)  # (M, V)
    for name in SOFT_CAPS:
        if (cap := getattr(config, name, None)) is not None:
            logits = (logits / cap).tanh() * cap
    return logits[..., : getattr(config, "unpadded_vocab_size", None)]


def logit_factor(config: PretrainedConfig) -> float:
    """The factor by which the architecture multiplies its logits; 1.0 for most."""
    factor = 1.0
    for name in FACTORS:
        if config.model_type not in IGNORES_ITS_FACTOR:
            factor *= getattr(config, name, None) or 1.0
    for name in DIVISORS:
        divisor = getattr(config, name, None) or 1.0
        factor *= divisor if config.model_type in MULTIPLIES_BY_ITS_DIVISOR else 1 / divisor
    return factor
