"""Makes a decoder causal again, whatever its configuration says.

The `config.json` of a bidirectional model that was saved whole has the switch on, in both
spellings, and some models are bidirectional from the start. `Encoder(bidirectional=False)`
overrides both.
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
    """Turns off the switch of `make_bidirectional` in a configuration, before a model is built.

    Sliding windows keep the width that they had in the causal decoder: while the switch is on,
    Gemma's configurations count both sides of a token, but only on disk.

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
    """Checks that no token sees a later one in any layer.

    Args:
        model: the decoder, with or without head and peft wrapper; if it is sharded, call this on
            all ranks.
        length: tokens of the text to try.

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
            "would see what it has to predict. Choose a causal model."
        )
