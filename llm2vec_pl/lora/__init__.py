"""Low-rank adapters: new ones to train, and trained ones to merge, to average or to build on."""

from llm2vec_pl.lora.adapters import EARLIER_NAME, merge_adapters, put_on_top
from llm2vec_pl.lora.alike import differing
from llm2vec_pl.lora.dropout import draw as dropped_places
from llm2vec_pl.lora.new import add_lora
from llm2vec_pl.lora.slerp import slerp_coefficients
from llm2vec_pl.lora.soup import average_adapters

__all__ = [
    "EARLIER_NAME",
    "add_lora",
    "average_adapters",
    "differing",
    "dropped_places",
    "merge_adapters",
    "put_on_top",
    "slerp_coefficients",
]
