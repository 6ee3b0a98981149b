"""What is special about single architectures: data for step 1, no code.

Every other decoder in transformers follows `config.is_causal = False` by itself. Architectures are
named by the `model_type` of their text configuration.
"""

from __future__ import annotations

REFUSED = {
    "mamba": "its state-space layers read from left to right and have no mask to lift",
    "mamba2": "its state-space layers read from left to right and have no mask to lift",
    "falcon_mamba": "its state-space layers read from left to right and have no mask to lift",
    "rwkv": "its recurrence reads from left to right and has no mask to lift",
    "xlstm": "its recurrence reads from left to right and has no mask to lift",
    "reformer": "its hashed and local attention build causal masks of their own in each chunk",
    "blt": "its byte patches are cut and hashed from left to right, before any attention",
    "deepseek_v4": "its sparse attention reads keys that are compressed and picked from the past",
    "cpmant": "its prompt and text segments share a mask that ignores the switch",
}
"""Architectures that cannot see both ways, and why."""

CAUSAL_MODULES = (
    "Mamba",
    "BambaMixer",
    "FalconH1Mixer",
    "ShortConv",
    "DeltaNet",
    "DeltaAttention",
    "LightningAttention",
    "RecurrentBlock",
    "CCAProjection",
)
"""Parts of the class names of modules that stay causal in a hybrid: convolutions, recurrences."""

FUSED_OUT_PROJ = (
    "BambaMixer",
    "FalconH1Mixer",
    "GraniteMoeHybridMambaLayer",
    "NemotronHMamba2Mixer",
    "Zamba2MambaMixer",
)
"""Mixer classes whose CUDA kernel uses the weight of `out_proj` without calling the layer."""

TRIANGULAR_BUFFERS = ("gpt_neo", "openai-gpt")
"""Architectures that mask with a lower-triangular buffer named `bias` in each attention module."""

BIDIRECTIONAL_ATTENTION_FLAG = {
    "gemma3n_text": None,  # saving would double its sliding window, reloading would not halve it
    "gemma4_text": "all",
    "gemma4_unified_text": "all",
}
"""What `config.use_bidirectional_attention` needs instead of `True`; None leaves it alone."""

WINDOW_SIZES = (
    "sliding_window",
    "attention_chunk_size",
    "sliding_window_size",
    "window_size",
    "attention_window_size",
    "local_attention",
)
"""Configuration entries that limit how far, in tokens, an attention layer looks."""

ATTENTION_DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
"""Configuration entries for the probability of dropping an attention weight."""

FIXED_ATTENTION_DROPOUT = ("falcon", "persimmon")
"""Architectures whose attention dropout cannot be set for one stage of training: falcon's sdpa
ignores it, and persimmon reads it at each step from the configuration, which is saved."""

LEARNED_POSITIONS = {
    "biogpt": "max_position_embeddings",
    "codegen": "n_positions",
    "ctrl": "n_positions",
    "git": "max_position_embeddings",
    "gpt2": "n_positions",
    "gpt_bigcode": "n_positions",
    "gpt_neo": "max_position_embeddings",
    "gptj": "n_positions",
    "mpt": "max_seq_len",
    "openai-gpt": "n_positions",
    "opt": "max_position_embeddings",
}
"""Architectures with a limited number of positions: the configuration entry that gives it. Tables
with an offset, such as OPT's, are longer by that offset."""
