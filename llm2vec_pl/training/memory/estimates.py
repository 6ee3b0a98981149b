"""Estimates of a step's memory: from a configuration, or for a loaded encoder."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import nn
from transformers import PretrainedConfig

from llm2vec_pl.bidirectional import make_bidirectional
from llm2vec_pl.decoder import ATTENTION_DROPOUTS, split_causal_lm
from llm2vec_pl.training.memory.activations import Activations, measure, quiet
from llm2vec_pl.training.memory.step import Memory, Step, add_up
from llm2vec_pl.training.memory.weight_sizes import (
    WeightQuantization,
    found_weights,
    planned_weights,
)


def estimate(
    config: PretrainedConfig,
    step: Step,
    *,
    dtype: str = "bfloat16",
    lora_rank: int = 16,
    lora_dropout: float = 0.05,
    quantization: WeightQuantization | None = None,
    gradient_checkpointing: bool = False,
    attention: str | None = None,
) -> Memory | None:
    """What a step needs, from the decoder's configuration alone.

    Args:
        config: configuration of the causal language model.
        step: what one device does.
        dtype: dtype of the weights; a LoRA's is float32.
        lora_rank: rank of the LoRA; 0 trains all weights.
        lora_dropout: dropout on the LoRA's input, whose mask is kept.
        quantization: quantization of the frozen linear layers.
        gradient_checkpointing: keep only the layers' inputs.
        attention: transformers' implementation; the architecture's best one if None. All fused
            ones keep the same.

    Returns:
        The estimate; None for an architecture that transformers cannot build without its weights.
    """
    model = _without_data(config, dtype, attention, step.device == "cuda")
    if model is None:
        return None
    weights = list(planned_weights(*model, lora_rank, quantization))
    decoder, _ = model
    activations = _activations(decoder, step, lora_rank, lora_dropout, gradient_checkpointing)
    return add_up(weights, activations, step, _vocabulary(config))


def estimate_of(encoder: Any, step: Step) -> Memory:
    """What a step of a loaded `Encoder` needs, counting its weights as they are.

    Args:
        encoder: a loaded encoder, before or after sharding.
        step: what one device does.
    """
    config, adapter = encoder.config, getattr(encoder.decoder, "peft_config", {}).get("default")
    model = _without_data(config, encoder.dtype, config._attn_implementation, step.device == "cuda")
    activations = None
    if model is not None:
        rank, dropout = (adapter.r, adapter.lora_dropout) if adapter else (0, 0.0)
        checkpointing = encoder.gradient_checkpointing
        targets = encoder.lora_options["targets"]
        activations = _activations(model[0], step, rank, dropout, checkpointing, targets)
    return add_up(list(found_weights(encoder)), activations, step, _vocabulary(config))


def _without_data(
    config: PretrainedConfig, dtype: str, attention: str | None, gpu: bool
) -> tuple[nn.Module, nn.Module] | None:
    """Decoder and head on the meta device, bidirectional; None if that is not possible."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    # Of the fused kernels, only PyTorch's own runs without a GPU; all keep the same.
    attention = attention if attention == "eager" else None
    if gpu and attention is None:  # a GPU's keep no (L, L) for dropout, a CPU's do
        text = config.get_text_config(decoder=True)
        for name in ATTENTION_DROPOUTS:
            if hasattr(text, name):
                setattr(text, name, 0.0)
    try:
        with torch.device("meta"), quiet():
            model = AutoModelForCausalLM.from_config(
                config, dtype=getattr(torch, dtype), attn_implementation=attention
            )
            return split_causal_lm(make_bidirectional(model))
    except Exception:  # an estimate must not end a run that may be fine
        return None


def _activations(
    decoder: nn.Module,
    step: Step,
    rank: int,
    dropout: float,
    checkpointing: bool,
    targets: list[str] | None = None,
) -> Activations | None:
    def prepare(decoder: Any) -> nn.Module:
        if checkpointing:
            decoder.gradient_checkpointing_enable({"use_reentrant": False})
        if not rank:
            decoder.requires_grad_(True)
            return cast(nn.Module, decoder)
        from llm2vec_pl.lora import add_lora

        with torch.device("meta"):  # else it draws random numbers that the training should get
            return add_lora(decoder, decoder.name_or_path, rank, dropout=dropout, targets=targets)

    gpu = step.device == "cuda"
    try:
        return measure(decoder, step.rows, step.width, prepare, step.autocast, gpu)
    except Exception:  # modelling code that looks at its data
        return None


def _vocabulary(config: PretrainedConfig) -> int:
    return int(config.get_text_config(decoder=True).vocab_size)
