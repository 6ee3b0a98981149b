"""Hard negatives for step 3, mined with an encoder."""

from llm2vec_pl.mining.file import read_pairs, read_texts, write_triplets
from llm2vec_pl.mining.negatives import mine
from llm2vec_pl.mining.rules import Rules

__all__ = [
    "Rules",
    "mine",
    "read_pairs",
    "read_texts",
    "write_triplets",
]
