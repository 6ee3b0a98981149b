"""An encoder that counts words, with a little noise, so that no two cosines are equal."""

from __future__ import annotations

from typing import ClassVar
from zlib import crc32

import torch


class WordCounts(torch.nn.Module):
    """Embeds a text by its words, and remembers what it was asked for."""

    embedding_size = 64
    tokenize = type("", (), {"max_length": 512})
    prompts: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.asked: list[tuple[str, str]] = []  # instruction, text

    def encode(self, texts, instruction="", batch_size=32, device=None):
        self.asked += [(instruction, text) for text in texts]
        vectors = torch.zeros(len(texts), self.embedding_size)
        for row, text in enumerate(texts):
            noise = torch.Generator().manual_seed(crc32(text.encode()))
            vectors[row] = 0.01 * torch.randn(self.embedding_size, generator=noise)
            for word in text.split():
                vectors[row, sum(word.encode()) * len(word) % self.embedding_size] += 1
        return vectors

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.asked]
