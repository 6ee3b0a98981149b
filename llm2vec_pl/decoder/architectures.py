"""What is particular to single architectures: data for step 1, no code.

Every other decoder of transformers follows `config.is_causal = False` by itself. The keys are
`model_type`s of text configurations, the values what an error or a warning should say.
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
    "deepseek_v4": "its sparse attention reads keys compressed from, and picked among, the past",
    "cpmant": "its prompt and text segments share a mask of its own that ignores the switch",
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
"""Parts of class names of what stays causal inside a hybrid: convolutions and recurrences."""

FUSED_OUT_PROJ = (
    "BambaMixer",
    "FalconH1Mixer",
    "GraniteMoeHybridMambaLayer",
    "NemotronHMamba2Mixer",
    "Zamba2MambaMixer",
)
"""Classes of mixers whose kernel for CUDA takes the weight of `out_proj` and never calls it."""

TRIANGULAR_BUFFERS = ("gpt_neo", "openai-gpt")
"""Architectures that mask by a lower-triangular buffer named `bias` in each attention module."""

BIDIRECTIONAL_ATTENTION_FLAG = {
    "gemma3n_text": None,  # saving would double its sliding window, reloading would not halve it
    "gemma4_text": "all",
    "gemma4_unified_text": "all",
}
"""What `config.use_bidirectional_attention` must say where it is not `True`; None: left alone."""

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
"""Configuration entries that hold the chance of an attention weight to be dropped."""

FIXED_ATTENTION_DROPOUT = ("falcon", "persimmon")
"""Architectures whose attention is not built with that: falcon's sdpa ignores it, persimmon's reads
the configuration at each step, which must not keep what one stage of training wants."""

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
"""Architectures that have positions for so many tokens only: the configuration entry that says how
many. Tables with an offset, as OPT's, are that much longer."""
