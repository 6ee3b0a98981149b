"""A tokenizer's fingerprint, which tells whether tokens on disk are still its own."""

from __future__ import annotations

import hashlib
import json

from transformers import PreTrainedTokenizerBase


def tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of all that decides the tokens of a text.

    Padding and truncation are left out, since calls change them.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    del content["padding"], content["truncation"]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
