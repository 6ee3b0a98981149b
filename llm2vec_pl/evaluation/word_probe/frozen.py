"""Models whose hidden states a probe reads: an `Encoder`, or an encoder-only model such as BERT."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from llm2vec_pl.decoder import (
    Source,
    encoder_contents,
    locate,
    multiplies_in_bfloat16,
    read_config,
    read_settings,
    read_tokenizer,
)
from llm2vec_pl.encoder import Encoder, TextTokenizer, TokenBatch
from llm2vec_pl.errors import UserError

CAUSAL_HEADS = ("ForCausalLM", "LMHeadModel")
MAX_LENGTH = 512  # tokens in a sentence, for all models alike


class FrozenModel(ABC):
    """A model that is never trained here. Its weights are loaded when states are first asked for.

    Args:
        name: its folder, or its name on the hub.
        tokenize: its tokenizer.
        layers: the number N of its layers.
        settings: what the states of given tokens depend on beside its files.
        shifts: where the state of a word may be taken: at its own tokens, or one position earlier.
    """

    def __init__(
        self,
        name: str,
        tokenize: TextTokenizer,
        layers: int,
        settings: dict[str, Any],
        shifts: tuple[int, ...],
    ) -> None:
        self.name = name
        self.tokenize = tokenize
        self.layers = layers
        self.shifts = shifts
        self.key = {"contents": encoder_contents(name), **settings}

    @abstractmethod
    def states(self, batch: TokenBatch) -> tuple[Tensor, ...]:
        """The hidden states of a batch: N + 1 of (B, L, D), those of the embeddings first.

        Args:
            batch: `input_ids` and `attention_mask`, each (B, L), on the CPU.
        """


def open_frozen(name: str, bidirectional: bool | None = None) -> FrozenModel:
    """A decoder or a trained encoder as an `Encoder`, anything else as an encoder-only model.

    Args:
        name: any `--encoder.model_name`, or an encoder-only model: a folder, or a name on the hub.
        bidirectional: opens a decoder with or without step 1; None as it was saved.

    Raises:
        UserError: if it is neither.
    """
    source = locate(name)
    if source.adapters or source.original or read_settings(source) or is_decoder(source):
        return FrozenDecoder(name, bidirectional)
    if bidirectional is not None:
        raise UserError(
            f"Expected a decoder, which can be causal or bidirectional, but {name} is an "
            "encoder-only model. Probe it under a name of its own, as in --encoders bert=NAME."
        )
    return EncoderOnly(name, source)


def is_decoder(source: Source) -> bool:
    """Whether full weights are those of a decoder-only language model.

    Some architectures, such as bert, can be both: then the class that was saved decides.

    Raises:
        UserError: if they are those of an encoder with a decoder, such as T5.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    config = read_config(source)
    if config.is_encoder_decoder:
        raise UserError(
            f"Expected a decoder or an encoder-only model, but {source.base} ({config.model_type}) "
            "has an encoder and a decoder. Name another model."
        )
    saved = getattr(config, "architectures", None) or []
    if any(name.endswith(CAUSAL_HEADS) for name in saved):
        return True
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return False
    return config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


class FrozenDecoder(FrozenModel):
    """The decoder of an `Encoder`, causal or bidirectional.

    Args:
        name: any `--encoder.model_name`.
        bidirectional: with or without step 1; None as it was saved.
    """

    def __init__(self, name: str, bidirectional: bool | None = None) -> None:
        # A stage may have been trained on short texts: then its own length cuts sentences.
        given: dict[str, Any] = {"max_length": MAX_LENGTH}
        if bidirectional is not None:
            given["bidirectional"] = bidirectional
        self.encoder = encoder = Encoder.as_saved(name, **given)
        settings = {
            "bidirectional": encoder.bidirectional,
            "dtype": encoder.dtype,
            "quantization": encoder.quantization,
        }
        layers = int(encoder.config.num_hidden_layers)
        super().__init__(name, encoder.tokenize, layers, settings, shifts=(0, 1))

    def states(self, batch: TokenBatch) -> tuple[Tensor, ...]:
        """The hidden states of a batch: N + 1 of (B, L, D), those of the embeddings first."""
        if not self.encoder.is_loaded:
            self.encoder.load().eval()
            if not self.encoder.quantization:
                self.encoder.to(_device())
        device = next(self.encoder.parameters()).device
        return self.encoder.layer_states({key: v.to(device) for key, v in batch.items()})


class EncoderOnly(FrozenModel):
    """Any model of transformers' `AutoModel` whose tokens see the whole text from the start.

    Its words are taken at their own tokens only: it was never trained to predict a token from the
    position before it.

    Args:
        name: its folder, or its name on the hub.
        source: where that is.
    """

    def __init__(self, name: str, source: Source) -> None:
        self.source = source
        self.config = read_config(source)
        # As an `Encoder` that only encodes: see `Encoder.from_pretrained`.
        in_bfloat16 = multiplies_in_bfloat16() and not torch.cuda.is_available()
        self.dtype = "bfloat16" if in_bfloat16 else "float32"
        tokenizer = read_tokenizer(source)
        longest = min(MAX_LENGTH, int(min(tokenizer.model_max_length, _positions(self.config))))
        tokenize = TextTokenizer(tokenizer, longest)
        layers = int(self.config.num_hidden_layers)
        super().__init__(name, tokenize, layers, {"dtype": self.dtype}, shifts=(0,))
        self._model: Any = None

    def states(self, batch: TokenBatch) -> tuple[Tensor, ...]:
        """The hidden states of a batch: N + 1 of (B, L, D), those of the embeddings first."""
        if self._model is None:
            self._model = self._load().eval().to(_device())
        inputs = {key: batch[key].to(self._model.device) for key in ("input_ids", "attention_mask")}
        states = getattr(self._model(**inputs, output_hidden_states=True), "hidden_states", None)
        if not states:
            raise UserError(
                f"{self.name} ({self.config.model_type}) gives no hidden states, so it cannot be "
                "probed. Name a model that encodes texts, such as BERT."
            )
        return tuple(states)

    def _load(self) -> Any:
        from transformers import AutoModel

        try:
            model, found = AutoModel.from_pretrained(
                self.source.base,
                config=copy.deepcopy(self.config),
                revision=self.source.revision,
                dtype=getattr(torch, self.dtype),
                output_loading_info=True,
            )
        except (ImportError, OSError, ValueError) as error:
            raise UserError(f"The weights of {self.name} could not be loaded: {error}") from error
        # A pooler makes one vector of a text, and many models come without.
        missing = sorted(key for key in found["missing_keys"] if "pooler" not in key)
        if missing:
            raise UserError(
                f"{self.name} lacks {len(missing)} weights of its {type(model).__name__}, such as "
                f"{missing[0]}: its hidden states would be random. Name another model."
            )
        return model


def _positions(config: PretrainedConfig) -> float:
    """The most tokens that a model can place; without a limit, infinity."""
    known = getattr(config, "max_position_embeddings", None)
    # RoBERTa and its kin begin to count after the number of the padding token.
    offset = 2 if "roberta" in config.model_type or config.model_type == "camembert" else 0
    return known - offset if isinstance(known, int) and known > offset else float("inf")


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
