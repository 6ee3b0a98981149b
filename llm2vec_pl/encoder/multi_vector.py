"""Texts -> one vector for each of their tokens, for late interaction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from llm2vec_pl.decoder import evaluating
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.encoding import whole_batch_size
from llm2vec_pl.encoder.maxsim import max_sim
from llm2vec_pl.encoder.projection import read_projection
from llm2vec_pl.encoder.tokenizer import TokenBatch, each_instruction, strings
from llm2vec_pl.errors import UserError


class MultiVectorEncoder(nn.Module):
    """An encoder with a linear layer on its hidden states: a short vector for each token.

    The vectors are those of the text's own tokens, after `max_length` has cut it; an instruction
    and a template have none.

    Args:
        encoder: the encoder, loaded.
        projection: its linear layer, from the size of a hidden state to that of a vector.
    """

    def __init__(self, encoder: Encoder, projection: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection

    @classmethod
    def from_pretrained(cls, folder: str | Path, **overrides: Any) -> MultiVectorEncoder:
        """Opens what `LateInteraction` has trained, ready to encode.

        Args:
            folder: the folder of the encoder or of its run.
            overrides: arguments of `Encoder` that replace the folder's own settings.

        Raises:
            UserError: if there is no such encoder, or it has no projection.
        """
        encoder = Encoder.as_saved(folder, **overrides).load().eval()
        projection = read_projection(encoder.source.folder)
        if projection is None:
            raise UserError(
                f"{folder} has no projection for late interaction: it was trained for one vector a "
                "text. Train it with `--model LateInteraction`, or open it with "
                "`Encoder.from_pretrained`."
            )
        return cls(encoder, projection).eval()

    def encode(
        self, texts: Sequence[str], instruction: str | Sequence[str] = "", batch_size: int = 32
    ) -> list[Tensor]:
        """The vectors of texts, (L, D) each, of length 1, in float32 on the CPU.

        Args:
            texts: N texts.
            instruction: written directly before each text, or one for each.
            batch_size: number of texts that go through the decoder at once.
        """
        texts = strings(texts)
        instructions = each_instruction(instruction, len(texts))
        size = whole_batch_size(batch_size)
        device = next(self.encoder.parameters()).device
        # Texts of similar length together: less padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        vectors: dict[int, Tensor] = {}
        with torch.inference_mode(False), torch.no_grad(), evaluating(self.encoder):
            for start in range(0, len(order), size):
                some = order[start : start + size]
                tokens = self.encoder.tokenize(
                    [texts[i] for i in some], [instructions[i] for i in some]
                )
                batch = {key: value.to(device) for key, value in tokens.items()}
                rows = F.normalize(token_vectors(self.encoder, self.projection, batch), dim=-1)
                for i, row, own in zip(some, rows.cpu(), tokens["pooling_mask"], strict=True):
                    vectors[i] = row[own.bool()]
        return [vectors[i] for i in range(len(texts))]

    def similarity(self, queries: Sequence[Tensor], documents: Sequence[Tensor]) -> Tensor:
        """MaxSim of each query with each document, (Q, N), from what `encode` returns."""
        return max_sim(padded(queries), padded(documents))


def token_vectors(encoder: Encoder, projection: nn.Module, batch: TokenBatch) -> Tensor:
    """The vectors of a token batch, (B, L, D), of any norm; 0 for all but the texts' own tokens."""
    states = encoder.hidden_states(batch)
    with torch.autocast(states.device.type, enabled=False):
        vectors: Tensor = projection(states.float())
    return vectors.masked_fill(~batch["pooling_mask"].bool()[..., None], 0.0)


def padded(vectors: Sequence[Tensor]) -> Tensor:
    """The vectors of N texts, (L, D) each, as one tensor (N, L, D), with 0 up to the longest."""
    return pad_sequence(list(vectors), batch_first=True)
