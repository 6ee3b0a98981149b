"""The architectures that `make test` runs; `pytest --exhaustive` and `make test-all` run all.

At least one of each mechanism that step 1, packing, a LoRA or saving treats in a way of its own, and
those that the README names. `test_architecture_sample.py` says what must have a member here.
"""

import pytest
from tiny_models import words

SAMPLE = {
    # What the README names, beside the mechanism that each is here for.
    "llama": "the plain one: a causal mask, rotary positions, one kind of layer",
    "mistral": "a sliding window in every layer",
    "mixtral": "a mixture of experts in each layer",
    "qwen2": "biases in attention",
    "qwen3": "normalized queries and keys",
    "qwen3_moe": "experts of a size of their own",
    "gemma": "scaled embeddings, a tied head",
    "gemma2": "logits capped in attention and after the head; no sdpa",
    "gemma3_text": "`use_bidirectional_attention`; sliding and full layers, each with its rotary base",
    "phi3": "fused projections: `qkv_proj`, `gate_up_proj`",
    "olmo2": "norms after attention and MLP",
    "smollm3": "layers without positions",
    "gpt_oss": "attention sinks; no sdpa",
    "gpt2": "learned positions (`n_positions`), Conv1D, dropout by `attn_pdrop`",
    "llama4_text": "chunked layers",
    "nemotron": "does not pass the switch on without padding",
    "stablelm": "does not pass the switch on without padding; partial rotary positions",
    "qwen3_next": "a hybrid with gated delta nets, which stay causal; a MoE that peft mistakes",
    "falcon_h1": "a hybrid with mamba beside attention in each layer; a fused `out_proj`",
    "jamba": "a hybrid with mamba in other layers than attention; `dt_proj` is never called",
    "mamba": "refused: state-space layers",
    "rwkv": "refused: a recurrence",
    "deepseek_v4": "refused: keys compressed from the past",
    # Masks of their own.
    "gpt_neo": "triangular buffers; global and local layers (`window_size`)",
    "openai-gpt": "triangular buffers, and no cache",
    "mpt": "ALiBi, which crashes without a mask; learned positions by `max_seq_len`",
    "bloom": "ALiBi",
    "falcon": "ALiBi or rotary, looks into the mask; attention dropout that sdpa ignores",
    "doge": "a mask that depends on the values",
    "deepseek_v32": "latent attention with an indexer that picks keys",
    "modernbert-decoder": "`local_attention`; eager attention crashes without a mask",
    "gemma3n_text": "a flag that must be left alone; layers that training mode only calls",
    "gemma4_text": "the flag wants `all`",
    # Positions.
    "opt": "learned positions with an offset; random layerdrop",
    "xglm": "sinusoidal positions with an offset",
    "ctrl": "sinusoidal positions without one",
    "persimmon": "reads its attention dropout at each step",
    # Heads and layers.
    "cohere": "logits scaled by a factor; attention beside the MLP",
    "granite": "logits, embeddings and residuals scaled",
    "deepseek_v3": "latent attention; dense layers and experts that peft mistakes",
    "diffllama": "the difference of two attentions",
    "laguna": "shared experts, whose keys peft renames",
    # What stays causal in a hybrid.
    "bamba": "BambaMixer",
    "granitemoehybrid": "GraniteMoeHybridMambaLayer, with a mixture of experts",
    "nemotron_h": "a layer is a mixer, attention or an MLP",
    "zamba2": "layers that share their weights",
    "lfm2": "a short convolution",
    "kimi_linear": "delta attention",
    "minimax": "lightning attention",
    "inkling_text": "two short convolutions; `sliding_window_size`, and logits cut and scaled",
    "recurrent_gemma": "a recurrent block; `attention_window_size`",
    "zaya": "a projection with a convolution",
    # Text decoders inside of other models.
    "gemma3": "a text decoder beside a tower for images",
    "mllama": "cross attention to images, and layers that text does not pass through",
    "git": "a decoder with images in front of the text",
    "moshi": "a text decoder beside one for audio",
}
"""Name and reason."""

QUICK = words(
    """llama mistral gemma3_text gemma3n_text qwen2 qwen3 gpt2 gpt_neo nemotron stablelm mamba
    llama4_text mpt modernbert-decoder qwen3_next falcon_h1 cohere granite opt"""
)
"""Those of the sample that `pytest -m "not slow"` runs too."""


def marks(model_type: str) -> tuple[pytest.MarkDecorator, ...]:
    """What a test of this architecture is marked with."""
    if model_type in QUICK:
        return ()
    return (pytest.mark.slow if model_type in SAMPLE else pytest.mark.exhaustive,)
