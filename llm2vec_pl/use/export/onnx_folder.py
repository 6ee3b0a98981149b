"""An ONNX model with its tokenizer, compared with the encoder and timed beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llm2vec_pl.decoder import LINEAGE
from llm2vec_pl.encoder import Encoder
from llm2vec_pl.files import write_json
from llm2vec_pl.use.export.card import About, onnx_card
from llm2vec_pl.use.export.lineage import lineage_of
from llm2vec_pl.use.export.onnx_model import Runtime, round_to_int8, seconds, write_graph
from llm2vec_pl.use.export.same_embeddings import (
    LEAST_COSINE,
    Reference,
    reference_of,
    require_equal,
)
from llm2vec_pl.use.export.stock_folder import write_settings
from llm2vec_pl.use.export.stock_tokenizer import save_tokenizer, stock_tokenizer

BATCH_SIZE = 8
LEAST_COSINE_INT8 = 0.98
"""Of an embedding from weights in 8 bits with the encoder's."""


def write_onnx(encoder: Encoder, folder: Path, int8: bool, report: Callable[[str], object]) -> None:
    """Writes `model.onnx`, the tokenizer, the encoder's rules and a card, and compares.

    Args:
        encoder: with its weights, in float32.
        folder: an existing one.
        int8: round the weights to 8 bits.
        report: called with each line on what is done.

    Raises:
        UserError: if the architecture cannot be traced, or the embeddings differ.
        OSError: if the folder cannot be written.
    """
    file = folder / "model.onnx"
    report("Tracing the decoder, which takes a minute or more.")
    write_graph(encoder, file)
    if int8:
        round_to_int8(file)
    save_tokenizer(stock_tokenizer(encoder, as_it_is=True), folder)
    write_settings(encoder, folder)
    about = About.of(encoder, lineage_of(encoder))
    write_json(folder / LINEAGE, about.lineage)
    reference = reference_of(encoder, BATCH_SIZE)
    runtime = Runtime(file, encoder.tokenize, BATCH_SIZE)
    kind = "onnxruntime, in int8," if int8 else "onnxruntime"
    least = LEAST_COSINE_INT8 if int8 else LEAST_COSINE
    agreement = require_equal(reference, runtime.embed, kind, least)
    compared = f"{agreement} {_timed(encoder, runtime, reference)}"
    report(compared)
    card = onnx_card(about, _rules(encoder), compared)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _timed(encoder: Encoder, runtime: Runtime, reference: Reference) -> str:
    """A line on the time that both take for the texts, in turn: torch, ONNX, torch, ONNX."""
    texts = reference.texts
    spent = [
        (
            seconds(lambda: encoder.encode(texts, batch_size=BATCH_SIZE)),
            seconds(lambda: runtime.embed(texts, "")),
        )
        for _ in range(2)
    ]
    own, other = (min(each) for each in zip(*spent, strict=True))
    return (
        f"It takes {other / own:.2f} times as long as this package's encoder in float32 "
        f"({other:.1f} s and {own:.1f} s, {torch.get_num_threads()} threads)."
    )


def _rules(encoder: Encoder) -> dict[str, Any]:
    """What the card has to say on how a row is made."""
    tokenize = encoder.tokenize
    chat = tokenize.template == "chat"  # holds its control tokens already
    return {
        "template": tokenize.rendered or tokenize.template,
        "special": ", add_special_tokens=False" if chat else "",
        "prompts": encoder.prompts,
    }
