"""Whether SimCSE has two views of a sentence: without dropout, it silently learns nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from llm2vec_pl.encoder import Encoder, TokenBatch
from llm2vec_pl.errors import UserError


def check_views(
    encoder: Encoder,
    batch: dict[str, TokenBatch],
    queries: Tensor,
    positives: Tensor,
    drew: bool,
) -> None:
    """Checks that dropout is on, if the positives of a batch are the queries themselves.

    Args:
        encoder: the encoder in training.
        batch: the first batch.
        queries: embeddings of its queries, (B, D).
        positives: embeddings of its positives, (B, D); in SimCSE, of the same sentences.
        drew: whether random numbers were drawn to compute them. If not, nothing was dropped,
            however far rounding in half precision moves two views apart.

    Raises:
        UserError: if both views are the same.
    """
    if drew and _lora_drops(encoder):
        return
    same_texts = torch.equal(*(batch[part]["input_ids"] for part in ("query", "positive")))
    if not same_texts or (drew and _differ(queries, positives)):
        return
    remedy = (
        "Set `attention_dropout=0.3`, as the paper does, or `lora_dropout` above 0."
        if encoder.training and encoder.decoder.training
        else "The encoder is in evaluation mode, which drops nothing: call train() on it."
    )
    raise UserError(
        "Each sentence is its own positive, and both have the same embedding: without "
        f"dropout there is nothing to learn. {remedy}"
    )


def random_state(device: torch.device) -> Tensor:
    """The state of a device's random number generator; no number is drawn."""
    if device.type == "cpu":
        return torch.get_rng_state()
    module = torch.get_device_module(device)
    state: Tensor = module.get_rng_state(*([device] if device.type != "mps" else []))
    return state


def _lora_drops(encoder: Encoder) -> bool:
    """Whether a LoRA's dropout is on.

    A new LoRA adds nothing to its layer: its dropout makes two views differ from step 2 on.
    """
    dropouts = (
        module
        for name, module in encoder.decoder.named_modules()
        if "lora_" in name and module.training
    )
    return any(getattr(module, "p", 0.0) > 0 for module in dropouts)


def _differ(queries: Tensor, positives: Tensor) -> bool:
    """Whether two views, (B, D) each, differ by more than rounding in float32."""
    return bool((queries - positives).norm() > 1e-4 * queries.norm())
