r"""The tokenizer in a GGUF file, made to split texts as the original one does.

transformers builds it from the vocabulary, but does not know all of llama.cpp's rules for cutting a
text into words (`tokenizer.ggml.pre`). Without them, "\n\n1" is other tokens than the decoder was
trained on. The rules: `llm_tokenizer_bpe` and `llama_vocab::impl::load` in llama.cpp's
src/llama-vocab.cpp.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from llm2vec_pl.decoder.gguf_header import Header

SINGLE_DIGITS = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)
"""Words as in GPT-2, but each digit is a word of its own."""

LIKE_GPT2 = frozenset(
    {"default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling"}
)
"""Words as in GPT-2, which is what transformers does without a rule."""

LIKE_LLAMA3 = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}
    | {"jina-v5-nano", "tekken"}
)
"""A word that is a token stays whole; texts begin with BOS, unless the file says otherwise."""


def read_gguf_tokenizer(file: Path, header: Header) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """The tokenizer of a GGUF file.

    Args:
        file: a whole GGUF.
        header: its header.

    Returns:
        The tokenizer, and what the user should be warned of.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=str(file))
    mask = header.metadata.get("tokenizer.ggml.mask_token_id")  # which transformers leaves out
    if mask is not None and tokenizer.mask_token is None:
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(mask)
    if header.metadata.get("tokenizer.ggml.model") != "gpt2":
        return tokenizer, []
    return tokenizer, _split_like_the_original(tokenizer, header.metadata)


def _split_like_the_original(tokenizer: Any, metadata: dict[str, Any]) -> list[str]:
    from tokenizers import pre_tokenizers

    rule = metadata.get("tokenizer.ggml.pre", "default")
    backend = tokenizer.backend_tokenizer
    if rule in SINGLE_DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    elif rule in LIKE_LLAMA3:
        backend.model.ignore_merges = True
        if "tokenizer.ggml.add_bos_token" not in metadata and tokenizer.bos_token is not None:
            tokenizer.add_bos_token = True
    elif rule not in LIKE_GPT2 and isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        return [
            f"The tokenizer of this GGUF cuts texts into words by the rule {rule!r}, which "
            "transformers does not know: it uses GPT-2's. Some texts may become other tokens than "
            "the decoder was trained on. The model in safetensors has its own tokenizer."
        ]
    return []
