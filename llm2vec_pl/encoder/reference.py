"""Folders of `llm2vec`, the reference implementation (0.2.3), in our terms.

Its folders hold an adapter, or full weights, and perhaps `llm2vec_config.json`. Those that it
published for the first stage (`…-mntp`) hold a `config.json` that names modelling code too. None of
that code is run.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llm2vec_pl.decoder import Source, fetch, locate_adapter, read_settings
from llm2vec_pl.encoder.reference_tokenizer import ReferenceTokenizer
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import read_json

POOLINGS = {"mean": "mean", "weighted_mean": "weighted_mean", "last_token": "last"}
"""The `pooling` that gives the same as each `pooling_mode` of the reference."""

OF_OWN_TOKENS = {"eos_token": "last", "bos_token": "first"}
"""The same for modes that pool a token outside the text; only with `reference_quirks`."""

POOLED = {
    "eos_token": "the state of an end token that it writes after each text",
    "bos_token": "the state of the begin token",
}

DEFAULTS = {
    "pooling_mode": "mean",
    "max_length": 512,
    "doc_max_length": 400,
    "skip_instruction": True,
}

RULES = ("reference_quirks", "doc_max_length", "skip_instruction")
"""What one of our folders records of an encoder that reads texts as the reference does."""

_IN_BRACKETS = "[INST] {text} [/INST]"
_IN_TAGS = "<|im_start|>user\n{text}<|im_end|>"
_LLAMA_3 = "meta-llama/Meta-Llama-3-8B"
_LLAMA_3_INSTRUCT = "meta-llama/Meta-Llama-3-8B-Instruct"

TEMPLATES = {
    _LLAMA_3_INSTRUCT: "<|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>",
    "mistralai/Mistral-7B-Instruct-v0.2": _IN_BRACKETS,
    "meta-llama/Llama-2-7b-chat-hf": _IN_BRACKETS,
    "google/gemma-2-9b-it": "<bos><start_of_turn>user\n{text}<end_of_turn>",
    "Qwen/Qwen2-1.5B-Instruct": _IN_TAGS,
    "Qwen/Qwen2-7B-Instruct": _IN_TAGS,
}
"""What it writes around instruction and text, by the name of the full weights."""

END_TOKENS = {"llama": " </s>", "mistral": " </s>", "gemma": "<eos>", "qwen2": "<|endoftext|>"}
"""What `eos_token` writes after that, by the kind of decoder."""


def reference_settings(source: Source, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Encoder` for a folder of the reference; none for any other.

    Args:
        source: of what the user named.
        overrides: arguments that the user gives instead.

    Raises:
        UserError: if no `pooling` matches the `pooling_mode`, unless the user gives one.
    """
    further = [locate_adapter(name) for name in overrides.get("adapters") or []]
    found = _published(source, further)
    if found is None:
        return {}
    _warn_if_incomplete(source)
    quirks = overrides.get("reference_quirks")
    quirks = True if quirks is None else quirks
    settings = {"max_length": found["max_length"], "reference_quirks": quirks}
    if not quirks:
        _warn_of_differences(found, overrides)
    if "pooling" not in overrides:
        settings["pooling"] = _pooling(found["pooling_mode"], quirks)
    return settings


def reference_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    source: Source,
    further: Sequence[Source],
    max_length: int,
    template: str | None,
    *,
    pooling: str,
    model_type: str,
) -> ReferenceTokenizer:
    """The tokenizer of an encoder with `reference_quirks`.

    Args:
        tokenizer: a fast one.
        source: of what the user named.
        further: adapters that the user put on top of it.
        max_length: most tokens in a row.
        template: what surrounds instruction and text; the reference's own if None.
        pooling: the encoder's.
        model_type: of its decoder.

    Raises:
        UserError: if the begin token is to be pooled, and the tokenizer writes none; or if the
            template does not have the right form.
    """
    own = read_settings(source)
    if own.get(
        "reference_quirks"
    ):  # one of our folders: it records the template, or that it has none
        found = {**DEFAULTS, **own}
    else:
        found = _published(source, further) or DEFAULTS
        template = template or _template(
            _known_as(source),
            model_type,
            pooling == "last" and found["pooling_mode"] == "eos_token",
        )
    skip_instruction = bool(found["skip_instruction"])
    if pooling == "first" and found["pooling_mode"] == "bos_token":
        _require_begin_token(tokenizer)
        skip_instruction = False  # the row's first token
    tokenizer = _of_its_file(tokenizer, source)
    return ReferenceTokenizer(
        tokenizer, max_length, template, _doc_max_length(found), skip_instruction
    )


def _of_its_file(tokenizer: PreTrainedTokenizerBase, source: Source) -> PreTrainedTokenizerBase:
    """The tokenizer that tokenizer.json describes, as transformers 4 reads it.

    transformers 5 builds some classes anew. Llama's then lacks the file's normalizer, and begins
    texts with blanks, and what follows a control token, with other tokens.
    """
    file = fetch(source.tokenizer, "tokenizer.json", source.tokenizer_revision)
    if file is None:
        return tokenizer
    fast: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(file.parent)
    return fast


def _doc_max_length(settings: Mapping[str, Any]) -> int:
    length = settings["doc_max_length"]
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise UserError(
            "llm2vec_config.json: expected doc_max_length to be a whole number of at least 1 "
            f"token, but got {length!r}. Correct it, or set `reference_quirks=False`."
        )
    return length


def _published(source: Source, further: Sequence[Source]) -> dict[str, Any] | None:
    """The settings of a folder of the reference; None if it is not one.

    They are those of the last adapter that has some. (The reference reads the last adapter's and,
    on the hub, none, so that there its defaults apply; what it published has the defaults.)
    """
    if "pooling" in read_settings(source):
        return None  # one of ours
    for part in (*reversed(further), source):
        settings = read_settings(part)
        if "pooling_mode" in settings:
            return {**DEFAULTS, **settings}
    return dict(DEFAULTS) if _brings_code(source) else None


def _brings_code(source: Source) -> bool:
    """Whether an adapter lies beside a `config.json` that names modelling code (`…-mntp`)."""
    if source.named is None:
        return False
    name, revision = source.named
    file = fetch(name, "config.json", revision)
    return file is not None and "auto_map" in read_json(file)


def _known_as(source: Source) -> str:
    """`config._name_or_path` as the reference has it: of local folders what `config.json` says."""
    named = source.named[0] if source.named else source.tokenizer
    for name in (named, source.base):
        file = Path(name) / "config.json"
        if file.is_file():
            return str(read_json(file).get("_name_or_path") or "")
    return source.base


def _template(name: str, model_type: str, ends: bool) -> str | None:
    """What surrounds instruction and text in `prepare_for_tokenization`; None for nothing."""
    template = TEMPLATES.get(name)
    if not ends or name == _LLAMA_3_INSTRUCT:
        return template
    end = "<|end_of_text|>" if name == _LLAMA_3 else END_TOKENS.get(model_type)
    return template if end is None else (template or "{text}") + end


def _pooling(mode: str, quirks: bool) -> str:
    known = {**POOLINGS, **OF_OWN_TOKENS} if quirks else POOLINGS
    if mode in known:
        return known[mode]
    pools, same = POOLED.get(mode, "something else"), ""
    if mode in OF_OWN_TOKENS:
        same = " For the same embeddings, leave `reference_quirks` to the folder."
    raise UserError(
        f"llm2vec_config.json has pooling_mode {mode!r}: the reference pools {pools}, but here "
        f"only a text's own tokens are pooled.{same} To open it with other embeddings, set "
        "`pooling` to mean, weighted_mean, last or first."
    )


def _require_begin_token(tokenizer: PreTrainedTokenizerBase) -> None:
    begin = tokenizer.bos_token_id
    if begin is None or tokenizer("a")["input_ids"][:1] != [begin]:
        raise UserError(
            "llm2vec_config.json has pooling_mode 'bos_token', but the tokenizer writes no begin "
            "token. Set `pooling` to mean, weighted_mean, last or first."
        )


def _warn_of_differences(found: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    if not found["skip_instruction"]:
        warnings.warn(
            "llm2vec_config.json has skip_instruction false: the reference pools an instruction "
            "with its text. With `reference_quirks=False`, write it into the text, since "
            "`instruction` is not pooled.",
            stacklevel=4,
        )
    longest, length = found["doc_max_length"], found["max_length"]
    if longest < length and "max_length" not in overrides:
        warnings.warn(
            f"llm2vec_config.json has doc_max_length {longest}: the reference cuts a text, without "
            "its instruction, at about that many tokens. With `reference_quirks=False` the two "
            f"together are cut at {length} tokens, unless you set `max_length`.",
            stacklevel=4,
        )


def _warn_if_incomplete(source: Source) -> None:
    """Warns if an adapter of the second stage is opened without that of the first."""
    name = source.name.rstrip("/")
    first, marker, _ = name.partition("-mntp-")
    if marker and len(source.adapters) == 1:
        warnings.warn(
            f"{name} names {source.base_name} as its base, so it is put on that alone. If it was "
            f"trained on top of {first}-mntp, as its name says, give that as the model and this "
            "one in `adapters`: the embeddings are wrong without it.",
            stacklevel=4,
        )
