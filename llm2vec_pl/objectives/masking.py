"""STEP 2's corruption: token ids -> masked token ids and the labels to predict."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

IGNORED = -100  # the label that cross entropy skips
MaskingStrategy = Literal["bert", "all"]


def mask_tokens(
    input_ids: Tensor,
    maskable: Tensor,
    mask_token_id: int,
    random_token_ids: Tensor,
    mask_probability: float = 0.2,
    strategy: MaskingStrategy = "bert",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Hides a share of the tokens and makes labels of them (LLM2Vec, section 2.1).

    Of the chosen tokens, `bert` replaces 80 % with the mask token and 10 % with random tokens, and
    leaves 10 % as they are (Devlin et al. 2019); `all` replaces every one with the mask token (Liu
    et al. 2019). The first token of a row is never chosen: MNTP predicts a token from the state
    before it.

    Args:
        input_ids: (B, L).
        maskable: True where a token may be chosen; False on special tokens and padding, (B, L).
        mask_token_id: the token that hides others.
        random_token_ids: the ids to draw random replacements from, (R,).
        mask_probability: the chance that a maskable token is chosen, in (0, 1].
        strategy: `bert` or `all`.
        generator: source of randomness, on the device of `input_ids`; torch's default if None.

    Returns:
        The corrupted ids, and labels that hold the original id where a token was chosen and -100
        elsewhere, both (B, L). In a short batch it may happen that no token is chosen.

    Raises:
        ValueError: for a probability outside (0, 1].

    >>> ids = torch.tensor([[5, 6, 7]])
    >>> mask_tokens(ids, ids > 5, 0, ids[0], mask_probability=1.0, strategy="all")
    (tensor([[5, 0, 0]]), tensor([[-100,    6,    7]]))
    """
    if not 0.0 < mask_probability <= 1.0:
        raise ValueError(f"`mask_probability` lies in (0, 1], but got {mask_probability}.")

    def noise() -> Tensor:
        # In float32 whatever the precision: a bfloat16 has steps of 1 / 256 here.
        return torch.rand(
            input_ids.shape,
            generator=generator,
            device=input_ids.device,
            dtype=torch.float32,
        )

    chosen = maskable.bool() & (noise() < mask_probability)  # (B, L)
    chosen[:, 0] = False
    labels = input_ids.masked_fill(~chosen, IGNORED)
    if strategy == "all":
        return input_ids.masked_fill(chosen, mask_token_id), labels

    fate = noise()
    draw = (noise() * len(random_token_ids)).long().clamp(max=len(random_token_ids) - 1)
    corrupted = input_ids.masked_fill(chosen & (fate < 0.8), mask_token_id)
    randomised = chosen & (fate >= 0.9)
    return torch.where(randomised, random_token_ids[draw], corrupted), labels
