"""A causal decoder again, from a configuration that says otherwise.

Full weights that were saved bidirectional say so in their `config.json`, in both spellings of the
switch; some models say it by their own nature. `Encoder(bidirectional=False)` means neither.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from llm2vec_pl.bidirectional.probe import token_influence
from llm2vec_pl.bidirectional.switch import BidirectionalityError, probe_inputs, text_config
from llm2vec_pl.decoder import BIDIRECTIONAL_ATTENTION_FLAG, decoder_layers, evaluating
from llm2vec_pl.distributed import backward_within_forward


def make_causal(config: PretrainedConfig) -> None:
    """Turns the switch of `make_bidirectional` back in a configuration, before a model is built.

    Widths of sliding windows stay as they were for the causal decoder: those of Gemma's
    configurations count both sides of a token while the switch is on, on disk only.

    Args:
        config: of any model; in a composite one, the text decoder's part is changed.
    """
    text: Any = config.get_text_config(decoder=True)
    vars(text).pop("is_causal", None)
    if getattr(text, "is_causal", True) is False:
        text.is_causal = True
    flag = getattr(text, "use_bidirectional_attention", None)
    if flag and flag == BIDIRECTIONAL_ATTENTION_FLAG.get(text.model_type, True):
        vars(text).pop("use_bidirectional_attention", None)
        if getattr(text, "use_bidirectional_attention", None) == flag:
            text.use_bidirectional_attention = None


def check_causal(model: nn.Module, *, length: int = 8) -> None:
    """No token sees a later one in any layer; or an error says where.

    Args:
        model: the decoder, with or without head and peft wrapper; of a sharded one, on all ranks.
        length: tokens of the text that is tried.

    Raises:
        BidirectionalityError: names the architecture and the layers.
    """
    inputs = probe_inputs(model, torch.ones(length, dtype=torch.long))
    with evaluating(model), backward_within_forward(model):
        influences = token_influence(
            lambda: model(**inputs, use_cache=False), decoder_layers(model), length
        )
    faults = [name for name, influence in influences.items() if influence.triu(1).any()]
    if faults:
        raise BidirectionalityError(
            f"Training on the next token expects a causal decoder, but in "
            f"{text_config(model).model_type} tokens see later ones in {', '.join(faults)}: each "
            "would see what it is to predict. Choose a causal model."
        )
