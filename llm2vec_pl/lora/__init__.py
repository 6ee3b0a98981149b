"""Low-rank adapters: new ones to train, and trained ones to merge or to build on."""

from llm2vec_pl.lora.adapters import EARLIER_NAME, merge_adapters, put_on_top
from llm2vec_pl.lora.new import add_lora

__all__ = [
    "EARLIER_NAME",
    "add_lora",
    "merge_adapters",
    "put_on_top",
]
