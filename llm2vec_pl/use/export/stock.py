"""What sentence-transformers' own modules can say of an encoder, and what they cannot.

They read the prompt and the text as one string and pool all tokens but the first few: as many as
the prompt has alone. Whatever else an encoder reads without pooling it has to be said in other
words: the start of a template as a prompt, the tokenizer's control tokens as words of no weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm2vec_pl.encoder import Encoder
from llm2vec_pl.errors import UserError
from llm2vec_pl.use.export.stock_tokenizer import stock_tokenizer

POOLING_FLAGS = {
    "first": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "weighted_mean": "pooling_mode_weightedmean_tokens",
    "last": "pooling_mode_lasttoken",
}

TEMPLATE = "template"
"""The prompt of a text that is given without one, where there is a template."""

OLDEST_TRANSFORMERS = "5.2"
"""The first that reads both ways if the configuration says so. Before, only Gemma 3 did."""


@dataclass
class Stock:
    """An encoder in the words of sentence-transformers.

    Attributes:
        tokenizer: gives the encoder's tokens to every program that reads `tokenizer.json`.
        prompts: by name, `query` and `document` among them; a template's start is part of each.
        start: of the template, which every prompt begins with; also a prompt of its own.
        pooling: the flag in `1_Pooling/config.json`.
        unpooled: control tokens that the tokenizer adds and that have no part in an embedding.
        max_length: most tokens of prompt and text.
        size: of an embedding.
        bidirectional: whether each token sees every other.
    """

    tokenizer: Any
    prompts: dict[str, str]
    start: str
    pooling: str
    unpooled: list[str]
    max_length: int
    size: int
    bidirectional: bool

    def prompt_tokens(self, prompt: str) -> int:
        """How many tokens sentence-transformers leaves out: those of the prompt alone."""
        ids = self.tokenizer(self.start + prompt)["input_ids"]
        if ids and ids[-1] in self.tokenizer.all_special_ids:
            ids = ids[:-1]
        return len(ids)


def stock(encoder: Encoder) -> Stock:
    """Says in sentence-transformers' words what an encoder does.

    Raises:
        UserError: if there are no words for it.
    """
    if type(encoder.decoder).__module__.startswith("transformers_modules"):
        raise UserError(
            f"{encoder.source.base_name} brings its own modelling code, and an export must open "
            "without code of its own. Export a model whose architecture transformers has."
        )
    start = _start_of_the_template(encoder)
    tokenizer = stock_tokenizer(encoder, start)
    first, last = _added_tokens(tokenizer)
    _require_pooling(encoder, first, last, start)
    prompts = {name: start + prompt for name, prompt in _prompts(encoder).items()}
    return Stock(
        tokenizer=tokenizer,
        prompts={**prompts, **({TEMPLATE: start} if start else {})},
        start=start,
        pooling=POOLING_FLAGS[encoder.pooling],
        unpooled=sorted({*first, *last}) if encoder.pooling == "mean" else [],
        max_length=encoder.tokenize.max_length,
        size=encoder.embedding_size,
        bidirectional=encoder.bidirectional,
    )


def counted_otherwise(encoder: Encoder, words: Stock, texts: list[str], prompt: str) -> Tensor:
    """The texts (N,) before which the prompt has another number of tokens than alone.

    The prompt's last blank is a part of most first words, but a token of its own before others.
    """
    if not prompt and not words.start:
        return torch.zeros(len(texts), dtype=torch.bool)
    first: Tensor = encoder.tokenize(texts, prompt)["pooling_mask"].argmax(dim=1)  # (N,)
    return first != words.prompt_tokens(prompt)


def _prompts(encoder: Encoder) -> dict[str, str]:
    """The encoder's prompts, with those of queries and documents under the names of these."""
    own = encoder.prompts
    document = next((own[name] for name in ("passage", "corpus") if name in own), "")
    return {"query": "", "document": document, **own}


def _start_of_the_template(encoder: Encoder) -> str:
    template = encoder.tokenize.rendered or encoder.tokenize.template
    if template is None:
        return ""
    before, after = template.split("{text}")
    if after or encoder.tokenize.template == "chat":
        raise UserError(
            f"The encoder's template {template!r} goes on after the text. What it writes there is "
            "read, but not pooled, and sentence-transformers has no way to say that: it pools all "
            "that comes after the prompt. Export with `format='onnx'`, which takes the pooled "
            "tokens as an input, or serve the encoder with recipes/serve.py."
        )
    return before


def _added_tokens(tokenizer: Any) -> tuple[list[str], list[str]]:
    """The control tokens that the tokenizer adds before and after each text."""
    encoding = tokenizer.backend_tokenizer.encode("a")
    own = [i for i, special in enumerate(encoding.special_tokens_mask) if not special]
    return encoding.tokens[: own[0]], encoding.tokens[own[-1] + 1 :]


def _require_pooling(encoder: Encoder, first: list[str], last: list[str], start: str) -> None:
    """Checks that the pooling finds the text's own tokens."""
    pooling = encoder.pooling
    before = ", ".join(first)
    if pooling == "first" and first:
        what = f"the tokenizer begins each text with {before}, which would be pooled in its place"
    elif pooling == "last" and last:
        what = f"the tokenizer ends each text with {', '.join(last)}, which would be pooled"
    elif pooling == "weighted_mean" and (first or last or start or any(encoder.prompts.values())):
        what = "sentence-transformers counts the weights from the first token that is read, not "
        what += "from the first that is pooled: a prompt, a template or " + (
            f"the tokenizer's {before or ', '.join(last)}" if first or last else "a control token"
        )
        what += " changes them"
    else:
        return
    raise UserError(
        f"The encoder's `pooling={pooling!r}` cannot be said in sentence-transformers' words: "
        f"{what}. Export with `format='onnx'`, which takes the pooled tokens as an input, or serve "
        "the encoder with recipes/serve.py."
    )
