"""STEP 2: masked next token prediction. The decoder learns to use the context on both sides."""

from __future__ import annotations

import torch

from llm2vec_pl.encoder import Encoder, TokenBatch
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives.base import Schedule
from llm2vec_pl.objectives.masking import MaskingStrategy, mask_tokens
from llm2vec_pl.objectives.next_token import NextTokenObjective


class MNTP(NextTokenObjective):
    """Masked next token prediction (LLM2Vec, section 2.1), each from the position before it.

    The trainer passes batches to `loss` with tokens hidden in `input_ids` and the hidden ones in
    `labels`, -100 elsewhere: `torch.where(labels < 0, input_ids, labels)` is the original text.

    Args:
        encoder: the encoder to train.
        mask_probability: share of the tokens to hide; the paper uses 0.2 for the LLaMAs and 0.8
            for Mistral.
        masking: "bert" replaces 80 % of these with the mask token and 10 % with random tokens, and
            leaves 10 % as they are; "all" replaces every one with the mask token.
        mask_token: the token that hides others: a token of the vocabulary, "eos", or "mask" for the
            tokenizer's own mask token.
        learning_rate: the highest learning rate, reached after warm-up.
        warmup_steps: optimizer steps of linear warm-up; below 1, a share of all steps.
        schedule: how the learning rate falls after warm-up.
        weight_decay: AdamW's weight decay.

    Raises:
        UserError: if the vocabulary lacks the mask token, or the probability is not in (0, 1].
    """

    def __init__(
        self,
        encoder: Encoder,
        mask_probability: float = 0.2,
        masking: MaskingStrategy = "bert",
        mask_token: str = "_",
        learning_rate: float = 5e-5,
        warmup_steps: float = 0.0,
        schedule: Schedule = "linear",
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(encoder, learning_rate, warmup_steps, schedule, weight_decay)
        if not 0.0 < mask_probability <= 1.0:
            raise UserError(f"`mask_probability` lies in (0, 1], but got {mask_probability}.")
        self.mask_probability = mask_probability
        self.masking: MaskingStrategy = masking
        self.mask_token_id = self._mask_token_id(mask_token)
        tokenizer = encoder.tokenizer
        # Not buffers: they stay on the host, where tokens are hidden.
        self.special_ids = torch.tensor(tokenizer.all_special_ids, dtype=torch.long)
        ordinary = torch.arange(min(len(tokenizer), encoder.config.vocab_size))
        self.ordinary_ids = ordinary[~torch.isin(ordinary, self.special_ids)]

    def labelled(self, batch: TokenBatch) -> TokenBatch:
        """Hides tokens; in validation the same ones each time, so that losses can be compared."""
        generator = None
        if not self.training:
            ids = batch["input_ids"]
            generator = torch.Generator(device=ids.device).manual_seed(int(ids.sum()))
        return self.masked(batch, generator)

    def masked(self, batch: TokenBatch, generator: torch.Generator | None = None) -> TokenBatch:
        """The batch with tokens hidden and their ids as `labels`, both (B, L).

        Args:
            batch: `input_ids` and `attention_mask`, each (B, L).
            generator: source of randomness; torch's default if None.
        """
        ids, attention_mask = batch["input_ids"], batch["attention_mask"].bool()
        maskable = attention_mask & ~torch.isin(ids, self.special_ids.to(ids.device))
        # A token is predicted from the one before it, which must not be padding.
        maskable[:, 1:] &= attention_mask[:, :-1]
        input_ids, labels = mask_tokens(
            ids,
            maskable,
            self.mask_token_id,
            self.ordinary_ids.to(ids.device),
            self.mask_probability,
            self.masking,
            generator,
        )
        return {**batch, "input_ids": input_ids, "labels": labels}

    def _mask_token_id(self, name: str) -> int:
        tokenizer = self.encoder.tokenizer
        if name in ("eos", "mask"):
            token_id = tokenizer.eos_token_id if name == "eos" else tokenizer.mask_token_id
        else:
            token_id = tokenizer.get_vocab().get(name)
        if token_id is None:
            raise UserError(
                f"`mask_token={name!r}`: {tokenizer.name_or_path} has no such token. "
                "Choose a token of its vocabulary (the paper's is '_'), 'eos', or 'mask' if the "
                "tokenizer has a mask token."
            )
        return int(token_id)
