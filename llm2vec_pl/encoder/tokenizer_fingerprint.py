"""What a tokenizer makes of texts, in a few digits: whether tokens on disk are still its own."""

from __future__ import annotations

import hashlib
import json

from transformers import PreTrainedTokenizerFast


def tokenizer_content(tokenizer: PreTrainedTokenizerFast) -> str:
    """What decides the tokens of a text; padding and truncation are left out, calls change them."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    del content["padding"], content["truncation"]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
