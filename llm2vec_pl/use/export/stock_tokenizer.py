"""The encoder's tokenizer for programs that know nothing of this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llm2vec_pl.decoder import read_tokenizer
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.files import read_json, write_json

NAMES = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip


def stock_tokenizer(encoder: Encoder, start: str = "", as_it_is: bool = False) -> Any:
    """The tokenizer to export.

    It pads on the right and has a padding token, cuts at the encoder's `max_length`, and has no
    chat template, in which sentence-transformers 6 would wrap each text. Control tokens that a
    text spells out stay plain characters, unless a prompt or the template needs them. Where it is
    needed, one blank at the end of a row is dropped: see `_drops_a_last_blank`.

    Args:
        encoder: with its weights.
        start: the start of its template.
        as_it_is: drop no blank, for programs that know a prompt's tokens by their characters.
    """
    from transformers import PreTrainedTokenizerFast

    own = read_tokenizer(encoder.source, encoder.trust_remote_code)
    backend: Any = own.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    names = {name: getattr(own, name, None) for name in NAMES}
    names["pad_token"] = names["pad_token"] or _some_token(backend, names)
    if not as_it_is and _ends_prompts_one_too_late(encoder, backend):
        _drops_a_last_blank(backend)
    plain = not encoder.tokenize.control_tokens and not _spells_control_tokens(
        backend, [start, *encoder.prompts.values()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: token for name, token in names.items() if token is not None},
        padding_side="right",
        model_max_length=encoder.tokenize.max_length,
        clean_up_tokenization_spaces=False,
        split_special_tokens=plain,
    )


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Writes `tokenizer.json` and a `tokenizer_config.json` that transformers 4 reads too.

    Under the name of a model's own tokenizer class, transformers 5 would build it anew and lose
    what was changed in it.
    """
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    left_out = ("backend", "is_local", "local_files_only", "chat_template")
    config = {key: value for key, value in read_json(file).items() if key not in left_out}
    write_json(file, {**config, "tokenizer_class": "PreTrainedTokenizerFast"})


def _some_token(backend: Any, names: dict[str, Any]) -> str:
    known = (names["eos_token"], names["bos_token"], backend.id_to_token(0))
    return next(str(token) for token in known if token is not None)


def _ends_prompts_one_too_late(encoder: Encoder, backend: Any) -> bool:
    """Whether a prompt that ends with a blank has one token more alone than before a text.

    The blank then belongs to the first word. sentence-transformers counts the prompt's tokens
    alone, and would leave this word out of the embedding.
    """
    row = encoder.tokenize(["text"], "prompt: ")
    pooled = int(row["pooling_mask"][0].nonzero()[0])
    template = encoder.tokenize.rendered or encoder.tokenize.template or "{text}"
    alone = backend.encode(template.split("{text}")[0] + "prompt: ")
    special = alone.special_tokens_mask
    while special and special[-1]:
        special = special[:-1]
    return len(special) > pooled


def _drops_a_last_blank(backend: Any) -> None:
    """Has the tokenizer drop one blank at the end of a row.

    A prompt alone then has as many tokens as before a text. A text that ends with a blank loses it.
    """
    from tokenizers import Regex, normalizers

    drop = normalizers.Replace(Regex(r" \z"), "")
    others = [backend.normalizer] if backend.normalizer else []
    backend.normalizer = normalizers.Sequence([drop, *others])


def _spells_control_tokens(backend: Any, texts: list[str]) -> bool:
    added = json.loads(backend.to_str())["added_tokens"]
    return any(token["special"] and token["content"] in text for token in added for text in texts)
