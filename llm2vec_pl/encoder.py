"""Tokens -> hidden states -> embeddings: a decoder, made bidirectional, with a LoRA on it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm2vec_pl.attention import packed_states
from llm2vec_pl.bidirectional import (
    accepts_position_ids,
    position_ids,
    refuse_unsupported,
    text_config,
)
from llm2vec_pl.cpu import multiplies_in_bfloat16
from llm2vec_pl.errors import UserError
from llm2vec_pl.fingerprint import Origin
from llm2vec_pl.head import head_logits
from llm2vec_pl.host import TEXT_LENGTHS
from llm2vec_pl.hub import display_name
from llm2vec_pl.influence import evaluating
from llm2vec_pl.int8_dynamic import INT8_DYNAMIC, Fidelity, quantize, refuse_training
from llm2vec_pl.loading import adapters_below, load_parts
from llm2vec_pl.packing import lay_out, share_out
from llm2vec_pl.pooling import Pooling, pool, pool_packed
from llm2vec_pl.quantization import BITSANDBYTES, Quantization
from llm2vec_pl.reference import reference_settings
from llm2vec_pl.sharding import is_sharded
from llm2vec_pl.source import (
    locate,
    locate_adapter,
    read_config,
    read_settings,
    read_tokenizer,
    require_weights,
)
from llm2vec_pl.text import TextTokenizer, TokenBatch
from llm2vec_pl.weights import require_attention_dropout

Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]

TOKENS_AT_ONCE = 2048
"""Tokens that `encode` sends through the decoder at once on a CPU: more are hardly faster."""

BATCHES_AHEAD = 16
"""Batches whose texts `encode` tokenises together, to share them out by their lengths."""


class Encoder(nn.Module):
    """A decoder-only language model as a text encoder (LLM2Vec, section 2).

    Construction reads the configuration, the tokenizer and, from the hub, adapters; `load` brings
    the weights. The decoder ends at its last hidden states, (B, L, D). Its language modelling head
    lies beside it for the objectives that predict tokens, and is not trained unless everything is.

    Args:
        model_name: `tiny` (the embedded decoder), a name on the hub, a folder with weights, or a
            folder or name of an adapter, whose base model and earlier adapters come along.
        revision: branch, tag or commit of a hub name.
        bidirectional: let each token see each other (step 1); false leaves the decoder causal.
        pooling: how the states of a text become its embedding.
        max_length: tokens a text may have, special tokens included; longer ones are cut.
        template: what surrounds a text, as "[INST] {text} [/INST]", or "chat".
        adapters: further LoRA adapters to merge into the weights first, in this order: folders,
            hub names, or `org/name@revision`.
        lora_rank: rank of the new LoRA on all linear layers of the decoder; 0 trains all weights.
        lora_alpha: scale of the LoRA; twice its rank if null.
        lora_dropout: chance of an input of the LoRA to be dropped.
        dora: weight-decomposed LoRA (Liu et al. 2024).
        rslora: rank-stabilised scale, alpha / sqrt(rank) (Kalajdzievski 2023).
        quantization: keep the frozen weights in 4 ("nf4") or 8 bits ("int8") and train a LoRA on
            them (QLoRA); "int8_dynamic" encodes on a CPU with weights and activations in 8 bits
            and says how near the embeddings stay; null keeps them as `dtype` says.
        attention: transformers' attention implementation; the architecture's best one if null.
        attention_dropout: chance of an attention weight to be dropped in training, 0.3 in the
            paper's SimCSE; the model's own if null.
        padding_free: run the real tokens of a batch only, where the architecture can; the results
            are the same. A compiled decoder runs padded batches, whose shapes recur.
        dtype: of the decoder's weights. A LoRA stays in float32. `from_pretrained` encodes in
            bfloat16 by default, on a machine without CUDA whose CPU multiplies in it.
        gradient_checkpointing: recompute activations in the backward pass: less memory, more time.
        compile: torch.compile the decoder: faster steps after a minute or more of compiling.
        random_weights: draw the weights instead of reading them: to pre-train from scratch.
        trust_remote_code: run modelling code that comes with the weights.
        fingerprint: of the weights and adapters that are named; others are refused. A run's
            config.yaml has it, so that the run is not repeated on anything else.

    Raises:
        UserError: with all that is wrong with the arguments, before any weights are read.
    """

    decoder: nn.Module
    lm_head: nn.Module
    causal_lm: PreTrainedModel

    def __init__(
        self,
        model_name: str = "tiny",
        revision: str | None = None,
        bidirectional: bool = True,
        pooling: Pooling = "mean",
        max_length: int = 512,
        template: str | None = None,
        adapters: list[str] | None = None,
        lora_rank: int = 16,
        lora_alpha: float | None = None,
        lora_dropout: float = 0.05,
        dora: bool = False,
        rslora: bool = False,
        quantization: Quantization | None = None,
        attention: Attention | None = None,
        attention_dropout: float | None = None,
        padding_free: bool = True,
        dtype: Dtype = "float32",
        gradient_checkpointing: bool = False,
        compile: bool = False,
        random_weights: bool = False,
        trust_remote_code: bool = False,
        fingerprint: str | None = None,
    ) -> None:
        super().__init__()
        if random_weights and lora_rank:
            raise UserError(
                "--encoder.random_weights true trains from scratch, where a LoRA learns little. "
                "Set --encoder.lora_rank 0."
            )
        if random_weights and quantization:
            raise UserError(
                f"--encoder.quantization {quantization} rounds weights that are there: it does not "
                "go with --encoder.random_weights true."
            )
        if quantization == INT8_DYNAMIC:
            refuse_training(lora_rank, compile)
        self.bidirectional = bidirectional
        self.pooling: Pooling = pooling
        self.lora_rank = lora_rank
        self.quantization: Quantization | None = quantization
        self.lora_options: dict[str, Any] = {
            "alpha": lora_alpha,
            "dropout": lora_dropout,
            "dora": dora,
            "rslora": rslora,
        }
        self.attention = attention
        self.attention_dropout = attention_dropout
        self.padding_free = padding_free and not compile
        self.packs = False
        self.notes: dict[str, Any] = {}
        self.fidelity: Fidelity | None = None
        self.dtype: Dtype = dtype
        self.gradient_checkpointing = gradient_checkpointing
        self.compile_decoder = compile
        self.random_weights = random_weights
        self.trust_remote_code = trust_remote_code

        self.source = locate(model_name, revision)
        further = [locate_adapter(name) for name in adapters or []]
        self.adapters = [folder for part in (self.source, *further) for folder in part.adapters]
        self.trained_on = [pin for part in (self.source, *further) for pin in part.trained_on]
        self.fingerprint = fingerprint
        self.origin: Origin | None = None
        if not random_weights:
            require_weights(self.source.base)
        self.config = read_config(self.source, trust_remote_code)
        if bidirectional:
            refuse_unsupported(self.config)
        require_attention_dropout(self.config, attention_dropout)

        tokenizer = read_tokenizer(self.source, trust_remote_code)
        self.text = TextTokenizer(tokenizer, max_length, template)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The decoder's tokenizer."""
        return self.text.tokenizer

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are there."""
        return hasattr(self, "decoder")

    def load(self, mesh: DeviceMesh | None = None, device: torch.device | None = None) -> Encoder:
        """Brings the weights: decoder, step 1, earlier adapters, new LoRA; in training mode.

        A second call does nothing, so that Lightning may call it as often as it likes.

        Args:
            mesh: the ranks among which the decoder is shared out (FSDP2), each reading its own
                rows of the weights; each has all of it if None.
            device: where sharded and quantized weights go; others stay on the CPU.

        Returns:
            The encoder itself.

        Raises:
            UserError: if the weights or an adapter do not fit.
        """
        if self.is_loaded:
            return self
        parts = load_parts(self, mesh, device)
        # The whole model, for saving; not registered, since its parts are.
        self.__dict__["causal_lm"] = parts.causal_lm
        self.decoder, self.lm_head, self.packs = parts.decoder, parts.lm_head, parts.packs
        self.origin = parts.origin
        self.config = text_config(parts.decoder)
        self._takes_position_ids = accepts_position_ids(parts.causal_lm)
        if self.quantization == INT8_DYNAMIC:
            self.fidelity = quantize(self)
        # from_pretrained leaves evaluation mode, in which nothing is dropped.
        return self.train()

    def hidden_states(self, batch: TokenBatch) -> Tensor:
        """The decoder's last hidden states.

        Where the decoder packs, padding costs nothing and its states are 0. A batch that did not
        come from an objective's trainer then makes a GPU wait, for the lengths of its texts.

        Args:
            batch: `input_ids` and `attention_mask`, each (B, L).

        Returns:
            (B, L, D), in the dtype of the computation.
        """
        mask = batch["attention_mask"]
        texts = lay_out(mask) if self.packs else None
        if texts is None:
            return self._padded_states(batch)
        packed = packed_states(self.decoder, batch["input_ids"], texts)  # (T, D)
        states = packed.new_zeros(mask.numel(), packed.shape[-1])
        return states.index_copy(0, texts.index, packed).view(*mask.shape, -1)

    def forward(self, batch: TokenBatch) -> Tensor:
        """The embeddings of a batch of texts.

        Args:
            batch: `input_ids`, `attention_mask` and `pooling_mask`, each (B, L).

        Returns:
            (B, D) in float32, not normalised.
        """
        texts = lay_out(batch["attention_mask"]) if self.packs else None
        if texts is None:
            return pool(self._padded_states(batch), batch["pooling_mask"], self.pooling)
        packed = packed_states(self.decoder, batch["input_ids"], texts)  # (T, D)
        return pool_packed(packed, texts.index, batch["pooling_mask"], self.pooling)

    def _padded_states(self, batch: TokenBatch) -> Tensor:
        inputs = {"input_ids": batch["input_ids"]}
        mask = batch["attention_mask"]
        # Without padding, attention without a mask is faster. A decoder that packs gets here only
        # then.
        if not self.packs and _may_be_padded(mask):
            inputs["attention_mask"] = mask
            if self._takes_position_ids:
                inputs["position_ids"] = position_ids(mask)
        states: Tensor = self.decoder(**inputs, use_cache=False).last_hidden_state
        return states

    def logits(self, states: Tensor) -> Tensor:
        """The language modelling head's logits: states (M, D) -> (M, V)."""
        return head_logits(states, self.lm_head, self.config)

    def encode(
        self, texts: str | Sequence[str], instruction: str = "", batch_size: int = 32
    ) -> Tensor:
        """Embeds texts in evaluation mode, whatever mode the encoder is in.

        Args:
            texts: N texts, or one.
            instruction: written right before each text and not pooled, as
                "Retrieve the answer to the question: ".
            batch_size: texts that go through the decoder at once, at most; on a CPU fewer where
                they are long.

        Returns:
            (N, D) in float32 on the CPU, in the order of the texts, not normalised; (D,) for one.

        Raises:
            UserError: if a text is not a string, or the instruction leaves no room for it.
        """
        if isinstance(texts, str):
            return self.encode([texts], instruction, batch_size)[0]
        self.load()
        # Weights that FSDP2 has gathered in inference mode could not be trained afterwards.
        grad_free = torch.no_grad() if is_sharded(self) else torch.inference_mode()
        with evaluating(self), grad_free:
            return self._encode(list(texts), instruction, batch_size)

    def _encode(self, texts: list[str], instruction: str, batch_size: int) -> Tensor:
        device = next(self.parameters()).device
        budget = TOKENS_AT_ONCE if device.type == "cpu" else float("inf")
        embeddings = torch.empty(len(texts), self.config.hidden_size, dtype=torch.float32)
        # Texts of like length together: less padding.
        order = sorted(range(len(texts)), key=lambda i: len(str(texts[i])), reverse=True)
        for start in range(0, len(order), BATCHES_AHEAD * batch_size):
            ahead = order[start : start + BATCHES_AHEAD * batch_size]
            tokens = self.text([texts[i] for i in ahead], instruction)
            lengths = tokens["attention_mask"].sum(dim=1).tolist()
            for rows in share_out(lengths, batch_size, budget, padded=not self.packs):
                batch = {k: v[rows, : lengths[rows[0]]].to(device) for k, v in tokens.items()}
                embeddings[[ahead[i] for i in rows]] = self(batch).cpu()
        return embeddings

    def settings(self) -> dict[str, Any]:
        """What `llm2vec_config.json` records: how a text becomes an embedding, and on what."""
        base, fingerprints = self.origin or (None, ())
        below = adapters_below(self)
        return {
            "base_model": self.source.base_name,
            "base_revision": self.source.revision,
            "base_fingerprint": base,
            "earlier_adapters": [
                {"name": display_name(folder), "fingerprint": fingerprint}
                for folder, fingerprint in zip(below, fingerprints, strict=False)
            ],
            "bidirectional": self.bidirectional,
            "pooling": self.pooling,
            "max_length": self.text.max_length,
            "template": self.text.template,
            "quantization": self.quantization if self.quantization in BITSANDBYTES else None,
            "dtype": self.dtype,
            **self.notes,
        }

    @classmethod
    def from_pretrained(cls, folder: str | Path, **overrides: Any) -> Encoder:
        """Opens what a run has left, ready to encode: adapters merged, in evaluation mode.

        The weights are in bfloat16 where a CPU is to encode that multiplies in it, about twice as
        fast as in float32; otherwise, and where they are quantized, as the folder says. An adapter
        that was trained on quantized weights comes back onto the same ones; with `quantization`
        None it is merged into those in full precision, for nearly the same embeddings.

        Args:
            folder: a stage's folder, or any `model_name`.
            overrides: arguments of `Encoder` that differ from the folder's own settings, `dtype`
                among them. With a `lora_rank`, to be trained, the dtype is the folder's.

        >>> Encoder.from_pretrained("tiny").encode(["a text", "another"]).shape
        torch.Size([2, 256])
        """
        settings = read_settings(locate(str(folder), overrides.get("revision")))
        settings |= reference_settings(settings, overrides)
        known = {k: v for k, v in settings.items() if k in inspect.signature(cls).parameters}
        rounded = {**known, **overrides}.get("quantization")
        exact = rounded and rounded in (INT8_DYNAMIC, known.get("quantization"))
        exact = exact or overrides.get("lora_rank") or torch.cuda.is_available()
        if not exact and multiplies_in_bfloat16():
            known["dtype"] = "bfloat16"
        encoder = cls(str(folder), **{"lora_rank": 0, **known, **overrides})
        if encoder.source.folder:  # of ours: what else a stage has noted stays known
            recorded = encoder.settings()
            encoder.notes = {k: v for k, v in settings.items() if k not in recorded}
        return encoder.load().eval()


def _may_be_padded(attention_mask: Tensor) -> bool:
    """Whether there is padding, as far as can be told without waiting for a GPU."""
    lengths = TEXT_LENGTHS.read(attention_mask)
    if lengths is not None:
        width = attention_mask.shape[1]
        return min(lengths, default=width) < width
    return attention_mask.is_cuda or not attention_mask.all()
