"""How many tokens a batch has, as far as the host knows without asking the device."""

from __future__ import annotations

from typing import Any


def token_batches(batch: Any) -> list[dict[str, Any]]:
    """The token batches in a batch, which may be one itself."""
    if not isinstance(batch, dict):
        return []
    parts = [part for part in batch.values() if isinstance(part, dict)]
    return [part for part in parts or [batch] if "attention_mask" in part]


def token_count(batch: Any, padded: bool = False) -> int:
    """The number of tokens in a batch; 0 if it has no attention mask.

    Args:
        batch: from the data module; its masks may be on any device.
        padded: count padding too. Padding also counts in a token batch on a GPU without
            `text_lengths`: to leave it out, the host would have to wait.
    """
    return sum(_tokens(part, padded) for part in token_batches(batch))


def _tokens(part: dict[str, Any], padded: bool) -> int:
    mask, lengths = part["attention_mask"], part.get("text_lengths")
    if not padded and lengths is not None:
        return int(sum(lengths))
    if not padded and mask.device.type == "cpu":
        return int(mask.sum())
    return int(mask.numel())
