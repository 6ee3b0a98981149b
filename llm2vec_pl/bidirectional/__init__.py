"""STEP 1: the decoder sees both ways (LLM2Vec, section 2.1), and the probes that prove it."""

from llm2vec_pl.bidirectional.causal import check_causal, make_causal
from llm2vec_pl.bidirectional.plain import plain_transformers
from llm2vec_pl.bidirectional.probe import token_influence
from llm2vec_pl.bidirectional.switch import (
    BidirectionalityError,
    accepts_position_ids,
    check_bidirectional,
    install_symmetric_masks,
    is_causal_module,
    make_bidirectional,
    mark,
    position_ids,
    probe_inputs,
    refuse_unsupported,
    text_config,
    wraps_as,
)
from llm2vec_pl.bidirectional.weight_usage import same_expert, used_layers, used_weights

__all__ = [
    "BidirectionalityError",
    "accepts_position_ids",
    "check_bidirectional",
    "check_causal",
    "install_symmetric_masks",
    "is_causal_module",
    "make_bidirectional",
    "make_causal",
    "mark",
    "plain_transformers",
    "position_ids",
    "probe_inputs",
    "refuse_unsupported",
    "same_expert",
    "text_config",
    "token_influence",
    "used_layers",
    "used_weights",
    "wraps_as",
]
