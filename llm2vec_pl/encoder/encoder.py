"""Tokens -> hidden states -> embeddings: a decoder, made bidirectional, with a LoRA on it."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm2vec_pl.bidirectional import (
    accepts_position_ids,
    install_symmetric_masks,
    position_ids,
    refuse_unsupported,
    text_config,
)
from llm2vec_pl.decoder import (
    BITSANDBYTES,
    Origin,
    Quantization,
    display_name,
    head_logits,
    locate,
    locate_adapter,
    multiplies_in_bfloat16,
    read_config,
    read_settings,
    read_tokenizer,
    rendered_template,
    require_weights,
    use_own_lengths,
)
from llm2vec_pl.encoder.arguments import (
    longest_text,
    require_attention,
    require_lora,
    require_one_of,
    require_positions,
)
from llm2vec_pl.encoder.compiling import compile_layers
from llm2vec_pl.encoder.encode import TextEncoder
from llm2vec_pl.encoder.int8_dynamic import INT8_DYNAMIC, Fidelity, quantize, refuse_training
from llm2vec_pl.encoder.lengths import text_lengths
from llm2vec_pl.encoder.loading import adapters_below, load_parts
from llm2vec_pl.encoder.packed_attention import attention_modules, packed_states, takes_packed
from llm2vec_pl.encoder.packing import pack_texts
from llm2vec_pl.encoder.pooling import Pooling, pool, pool_packed
from llm2vec_pl.encoder.projection import warn_of_projection
from llm2vec_pl.encoder.prompts import require_prompts
from llm2vec_pl.encoder.reference import RULES, reference_settings, reference_tokenizer
from llm2vec_pl.encoder.tokenizer import TextTokenizer, TokenBatch
from llm2vec_pl.encoder.weights import require_attention_dropout
from llm2vec_pl.errors import Faults, UserError

Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]

_loading = threading.RLock()


class Encoder(TextEncoder):
    """A decoder-only language model as a text encoder (LLM2Vec, section 2).

    Construction reads the configuration and the tokenizer, and fetches adapters from the hub;
    `load` reads the weights. The decoder ends at its last hidden states, (B, L, D). Its language
    modelling head is kept apart, for objectives that predict tokens; it is trained only if the
    weights are drawn at random.

    Args:
        model_name: `tiny` (the embedded decoder), a name on the hub, a folder with weights, a GGUF
            (`model.gguf`, or `org/name:FILE.gguf` on the hub), `smollm2-135m` or `gemma3-270m`
            (from an installed package), or the folder or name of an adapter, which brings its base
            model and earlier adapters along.
        revision: branch, tag or commit of a hub name.
        bidirectional: let each token see every other (step 1); false leaves the decoder causal.
        pooling: how the hidden states of a text become its embedding.
        max_length: most tokens in a text, including special tokens; longer texts are cut. MNTP's
            blocks have this length too, unless the data sets another. Some decoders have a limited
            number of positions, which it cannot exceed.
        template: what surrounds a text, such as "[INST] {text} [/INST]", or "chat": the tokenizer's
            chat template as rendered now, or as an earlier stage in the named folder rendered it.
        adapters: further LoRA adapters to merge into the weights first, in this order: folders,
            hub names, or `org/name@revision`.
        lora_rank: rank of the new LoRA on the linear layers of the decoder; 0 trains all weights.
        lora_alpha: scale of the LoRA; twice its rank if null.
        lora_dropout: probability of dropping an input of the LoRA.
        dora: weight-decomposed LoRA (Liu et al. 2024).
        rslora: rank-stabilised scale, alpha / sqrt(rank) (Kalajdzievski 2023).
        lora_targets: layers that get a LoRA, by the ends of their names, such as q_proj, or by
            regular expressions; all linear layers that a text passes through if null.
        quantization: keep the frozen weights in 4 ("nf4") or 8 bits ("int8") and train a LoRA on
            them (QLoRA); "int8_dynamic" encodes on a CPU with weights and activations in 8 bits
            and prints how close the embeddings stay; null keeps the weights in `dtype`.
        attention: transformers' attention implementation; the architecture's best one if null.
        attention_dropout: probability of dropping an attention weight in training, 0.3 in the
            paper's SimCSE; the model's own if null.
        padding_free: run only the real tokens of a batch, if the architecture can; the results are
            the same.
        dtype: of the decoder's weights. A LoRA stays in float32. By default, `from_pretrained`
            encodes in bfloat16 on a machine without CUDA whose CPU multiplies in it.
        gradient_checkpointing: recompute activations in the backward pass: less memory, more time.
        compile: torch.compile the decoder's layers: faster steps after a minute or two of
            compiling.
        random_weights: draw the weights instead of reading them, to pre-train from scratch.
        trust_remote_code: run modelling code that comes with the weights.
        control_tokens: treat control tokens that a text spells out, such as `</s>`, as control
            tokens; by default they are plain characters. In a template or an instruction they
            always count.
        reference_quirks: read texts as llm2vec 0.2.3 does, with all that its published numbers
            depend on: its separator and its templates, which it picks by the model's name, and
            whose end is pooled; its way of cutting texts and of counting their tokens; and control
            tokens that a text spells out. By default, `from_pretrained` does so for its folders,
            and an `Encoder` does not.
        prompts: instructions by name. `encode_query` uses the one named `query`, `encode_document`
            the one named `document`, and `encode(prompt_name=...)` any. By default those of the
            encoder in `model_name`; training adds those of its tasks, under other names than these.
        fingerprint: of the named weights and adapters; others are refused. A run's config.yaml has
            it, so that the run is not repeated on anything else.

    Raises:
        UserError: with everything that is wrong with the arguments, before any weights are read.
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
        lora_targets: list[str] | None = None,
        quantization: Quantization | None = None,
        attention: Attention | None = None,
        attention_dropout: float | None = None,
        padding_free: bool = True,
        dtype: Dtype = "float32",
        gradient_checkpointing: bool = False,
        compile: bool = False,
        random_weights: bool = False,
        trust_remote_code: bool = False,
        control_tokens: bool = False,
        reference_quirks: bool | None = None,
        prompts: dict[str, str] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        super().__init__()
        faults = Faults()
        faults.of(require_one_of, "pooling", pooling, Pooling)
        faults.of(require_one_of, "dtype", dtype, Dtype)
        faults.of(require_one_of, "quantization", quantization, Quantization, optional=True)
        faults.of(require_attention, attention)
        faults.of(require_lora, lora_rank, lora_dropout)
        faults.of(require_prompts, prompts)
        faults.of(_require_weights_to_draw, random_weights, lora_rank, quantization)
        if quantization == INT8_DYNAMIC:
            faults.of(refuse_training, lora_rank, compile)
        self.bidirectional = bidirectional
        self.pooling: Pooling = pooling
        self.given_prompts: dict[str, str] = dict(prompts) if isinstance(prompts, Mapping) else {}
        self.lora_rank = lora_rank
        self.quantization: Quantization | None = quantization
        self.lora_options: dict[str, Any] = {
            "alpha": lora_alpha,
            "dropout": lora_dropout,
            "dora": dora,
            "rslora": rslora,
            "targets": lora_targets,
        }
        self.attention = attention
        self.attention_dropout = attention_dropout
        self.padding_free = padding_free
        self._can_pack = False
        self.unused: tuple[str, ...] = ()  # weights that no text trains, frozen
        self.notes: dict[str, Any] = {}
        self.fidelity: Fidelity | None = None
        self.dtype: Dtype = dtype
        self.gradient_checkpointing = gradient_checkpointing
        self.compile_decoder = compile
        self.random_weights = random_weights
        self.trust_remote_code = trust_remote_code

        self.fingerprint = fingerprint
        self.origin: Origin | None = None
        with faults.noted():
            self.source = locate(model_name, revision)
            further = [locate_adapter(name) for name in adapters or []]
            self.adapters = [f for part in (self.source, *further) for f in part.adapters]
            self.trained_on = [pin for part in (self.source, *further) for pin in part.trained_on]
            known = read_settings(self.source) if self.source.folder and prompts is None else {}
            faults.of(require_prompts, known.get("prompts"))
            self.prompts: dict[str, str] = {**(known.get("prompts") or {}), **self.given_prompts}
            if not random_weights:
                require_weights(self.source.base)
            self.config = read_config(self.source, trust_remote_code)
            if bidirectional:
                refuse_unsupported(self.config)
            tokenizer = read_tokenizer(self.source, trust_remote_code)
            faults.of(require_attention_dropout, self.config, attention_dropout)
            longest = longest_text(max_length, self.config)
            if reference_quirks:
                kind = {"pooling": pooling, "model_type": self.config.model_type}
                self.tokenize: TextTokenizer = reference_tokenizer(
                    tokenizer, self.source, further, longest, template, **kind
                )
            else:
                rendered = rendered_template(self.source) if template == "chat" else None
                self.tokenize = TextTokenizer(
                    tokenizer, longest, template, control_tokens, rendered
                )
        faults.raise_all()

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The decoder's tokenizer."""
        return self.tokenize.tokenizer

    @property
    def embedding_size(self) -> int:
        """D, the size of an embedding and of a hidden state."""
        # OPT-350m's decoder ends with a projection to another size.
        return int(getattr(self.config, "word_embed_proj_dim", self.config.hidden_size))

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are loaded."""
        return hasattr(self, "decoder")

    def load(self, mesh: DeviceMesh | None = None, device: torch.device | None = None) -> Encoder:
        """Loads the decoder, does step 1, adds earlier adapters and a new LoRA; in training mode.

        A second call does nothing, so Lightning may call it as often as it likes.

        Args:
            mesh: the ranks over which the decoder is sharded (FSDP2), each reading its own rows of
                the weights; if None, each process has the whole decoder.
            device: where sharded and quantized weights go; others stay on the CPU.

        Returns:
            The encoder itself.

        Raises:
            UserError: if the weights or an adapter do not fit.
        """
        # Several threads may ask for embeddings at once. Lightning may have entered inference mode,
        # in which no weights are created that could be trained.
        with _loading, torch.inference_mode(False):
            if not self.is_loaded:
                self._load(mesh, device)
        return self

    def _load(self, mesh: DeviceMesh | None, device: torch.device | None) -> None:
        parts = load_parts(self, mesh, device)
        # The whole model, for saving; not registered, since its parts are.
        self.__dict__["causal_lm"] = parts.causal_lm
        self.unused, self.origin = parts.unused, parts.origin
        self.config = text_config(parts.decoder)
        self._can_pack = parts.packs
        self._takes_position_ids = accepts_position_ids(parts.causal_lm)
        self._attention_modules = attention_modules(parts.decoder)
        use_own_lengths(parts.decoder)
        # transformers loads models in evaluation mode, in which nothing is dropped.
        self.lm_head = parts.lm_head
        self.train()
        parts.decoder.train()
        self.decoder = parts.decoder  # last: the encoder now counts as loaded
        if self.quantization == INT8_DYNAMIC:
            self.fidelity = quantize(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Makes a copied or unpickled encoder work like the original, in any process."""
        super().__setstate__(state)
        if not self.is_loaded:
            return
        self._attention_modules = attention_modules(self.decoder)
        if self.bidirectional:
            install_symmetric_masks()
        if self.compile_decoder:  # PyTorch does not copy what it compiled
            compile_layers(self.decoder)

    @property
    def packs(self) -> bool:
        """Whether the real tokens of a batch currently run without its padding.

        They do not once an attention implementation is set that cannot do this.
        """
        return self._can_pack and self.padding_free and takes_packed(self._attention_modules)

    def hidden_states(self, batch: TokenBatch) -> Tensor:
        """The decoder's last hidden states.

        If the encoder packs, padding costs nothing and its states are 0. A batch without
        `text_lengths` then makes the host wait for a GPU; the trainer's batches have them.

        Args:
            batch: `input_ids` and `attention_mask`, each (B, L); and `text_lengths`, (B,), if
                known.

        Returns:
            (B, L, D), in the dtype of the computation.
        """
        mask = batch["attention_mask"]
        packs = self.packs
        texts = pack_texts(mask, batch.get("text_lengths")) if packs else None
        if texts is None:
            return self._padded_states(batch, is_full=packs)
        require_positions(texts.longest, self.config)
        packed = packed_states(self.decoder, batch["input_ids"], texts)  # (T, D)
        states = packed.new_zeros(mask.numel(), packed.shape[-1])
        return states.index_copy(0, texts.index, packed).view(*mask.shape, -1)

    def layer_states(self, batch: TokenBatch) -> tuple[Tensor, ...]:
        """The hidden states of every layer, for analyses.

        Args:
            batch: as for `hidden_states`. It runs with its padding, so its texts should be of
                similar length.

        Returns:
            (B, L, D) for the embeddings and after each of the N layers, N + 1 in all. The last ones
            are those of `hidden_states`, except on padding.

        Raises:
            UserError: if the decoder gives its last hidden states only.
        """
        output = self._padded_output(batch, is_full=False, output_hidden_states=True)
        states = getattr(output, "hidden_states", None)
        if not states:
            raise UserError(
                f"The decoder of {self.source.name} ({self.config.model_type}) gives the hidden "
                "states of its last layer only. Ask for these."
            )
        return tuple(states)

    def forward(self, batch: TokenBatch) -> Tensor:
        """The embeddings of a batch of texts.

        Args:
            batch: `input_ids`, `attention_mask` and `pooling_mask`, each (B, L); and
                `text_lengths`, (B,), if known.

        Returns:
            (B, D) in float32, not normalised.
        """
        packs = self.packs
        texts = pack_texts(batch["attention_mask"], batch.get("text_lengths")) if packs else None
        if texts is None:
            states = self._padded_states(batch, is_full=packs)
            return pool(states, batch["pooling_mask"], self.pooling)
        require_positions(texts.longest, self.config)
        packed = packed_states(self.decoder, batch["input_ids"], texts)  # (T, D)
        return pool_packed(packed, texts.index, batch["pooling_mask"], self.pooling)

    def _padded_states(self, batch: TokenBatch, is_full: bool) -> Tensor:
        states: Tensor = self._padded_output(batch, is_full).last_hidden_state
        return states

    def _padded_output(self, batch: TokenBatch, is_full: bool, **more: bool) -> Any:
        inputs = {"input_ids": batch["input_ids"]}
        mask = batch["attention_mask"]
        require_positions(mask.shape[1], self.config)
        # Without padding, attention without a mask is faster.
        if not is_full and _may_be_padded(batch):
            inputs["attention_mask"] = mask
            if self._takes_position_ids:
                inputs["position_ids"] = position_ids(mask)
        return self.decoder(**inputs, use_cache=False, **more)

    def logits(self, states: Tensor) -> Tensor:
        """The language modelling head's logits: states (M, D) -> (M, V)."""
        return head_logits(states, self.lm_head, self.config)

    def add_prompts(self, prompts: Mapping[str, str]) -> None:
        """Adds the instructions that a run trains with; an argument's keep their names.

        Args:
            prompts: instructions by name.

        Raises:
            UserError: if they are not strings by name.
        """
        require_prompts(prompts)
        self.prompts = {**self.prompts, **prompts, **self.given_prompts}

    def settings(self) -> dict[str, Any]:
        """What `llm2vec_config.json` records: how a text becomes an embedding, on which weights."""
        base, fingerprints = self.origin or (None, ())
        below = adapters_below(self)
        return {
            "base_model": self.source.base_name,
            "base_revision": self.source.revision,
            "base_fingerprint": base,
            "base_file": self.source.base_file,
            "earlier_adapters": [
                {"name": display_name(folder), "fingerprint": fingerprint}
                for folder, fingerprint in zip(below, fingerprints, strict=False)
            ],
            "bidirectional": self.bidirectional,
            "pooling": self.pooling,
            **self.tokenize.rules,
            "prompts": self.prompts,
            "quantization": self.quantization if self.quantization in BITSANDBYTES else None,
            "dtype": self.dtype,
            **self.notes,
        }

    @classmethod
    def from_pretrained(cls, folder: str | Path, **overrides: Any) -> Encoder:
        """Opens a trained encoder, ready to encode: adapters merged, in evaluation mode.

        Without CUDA, on a CPU that multiplies in bfloat16, the weights are in bfloat16, about twice
        as fast as float32. Otherwise, or if they are quantized, their dtype is the folder's. An
        adapter that was trained on quantized weights is put back on the same ones; with
        `quantization=None` it is merged into weights in full precision, for nearly the same
        embeddings.

        Args:
            folder: a stage's folder, or any `model_name`.
            overrides: arguments of `Encoder` that replace the folder's own settings, such as
                `dtype`. With a `lora_rank`, for training, the dtype is the folder's by default.

        >>> Encoder.from_pretrained("tiny").encode(["a text", "another"]).shape
        torch.Size([2, 256])
        """
        encoder = cls.as_saved(folder, **overrides)
        warn_of_projection(encoder.source.folder)
        return encoder.load().eval()

    @classmethod
    def as_saved(cls, folder: str | Path, **overrides: Any) -> Encoder:
        """The encoder of `from_pretrained` before its weights are loaded, which `load` does.

        Args:
            folder: as for `from_pretrained`.
            overrides: as for `from_pretrained`.
        """
        if overrides.get("reference_quirks") is None:
            overrides.pop("reference_quirks", None)
        source = locate(str(folder), overrides.get("revision"))
        settings = {**read_settings(source), **reference_settings(source, overrides)}
        known = {k: v for k, v in settings.items() if k in inspect.signature(cls).parameters}
        rounded = {**known, **overrides}.get("quantization")
        exact = rounded and rounded in (INT8_DYNAMIC, known.get("quantization"))
        exact = exact or overrides.get("lora_rank") or torch.cuda.is_available()
        if not exact and multiplies_in_bfloat16():
            known["dtype"] = "bfloat16"
        encoder = cls(str(folder), **{"lora_rank": 0, **known, **overrides})
        if encoder.source.folder:  # one of our stages: keep whatever else it recorded
            recorded = encoder.settings()
            known_here = {*recorded, *RULES}
            encoder.notes = {k: v for k, v in settings.items() if k not in known_here}
        return encoder


def _require_weights_to_draw(
    random_weights: bool, lora_rank: int, quantization: Quantization | None
) -> None:
    if random_weights and lora_rank:
        raise UserError(
            "`random_weights=True` trains from scratch, where a LoRA learns little. "
            "Set `lora_rank=0`."
        )
    if random_weights and quantization:
        raise UserError(
            f"`quantization={quantization!r}` needs trained weights, but `random_weights=True` "
            "draws new ones. Leave out one of the two."
        )


def _may_be_padded(batch: TokenBatch) -> bool:
    """Whether a batch may be padded, decided without waiting for a GPU."""
    mask: Tensor = batch["attention_mask"]
    lengths = batch.get("text_lengths")
    if lengths is not None:
        width = mask.shape[1]
        return min(text_lengths(mask, lengths), default=width) < width
    return mask.is_cuda or not mask.all()
