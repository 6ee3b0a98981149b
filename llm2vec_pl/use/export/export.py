"""Writes an encoder for programs that know nothing of this package."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from llm2vec_pl.decoder import LINEAGE, Source, locate, read_settings
from llm2vec_pl.encoder import Dtype, Encoder
from llm2vec_pl.errors import Faults, UserError
from llm2vec_pl.files import unfinished, write_json
from llm2vec_pl.use.export.card import About, stock_card
from llm2vec_pl.use.export.lineage import lineage_of
from llm2vec_pl.use.export.onnx_folder import write_onnx
from llm2vec_pl.use.export.onnx_model import require_onnx
from llm2vec_pl.use.export.reopened import reopened, require_sentence_transformers
from llm2vec_pl.use.export.same_embeddings import pooling_all, reference_of, require_equal
from llm2vec_pl.use.export.stock import counted_otherwise, stock
from llm2vec_pl.use.export.stock_folder import write_folder
from llm2vec_pl.use.export.upload import push, require_repository

Format = Literal["sentence-transformers", "onnx"]
BATCH_SIZE = 8


def export_encoder(
    name: str | Path,
    out: str | Path,
    format: Format = "sentence-transformers",
    int8: bool = False,
    dtype: Dtype | None = None,
    prompts: Mapping[str, str] | None = None,
    push_to_hub: str | None = None,
    report: Callable[[str], object] = lambda line: None,
) -> Path:
    """Writes an encoder as a folder for other programs, and compares it with the encoder.

    A folder for sentence-transformers opens without `trust_remote_code`: the adapters are merged
    into the weights, and only modules of its own are used. Its layout is the one that Text
    Embeddings Inference, vLLM and Infinity read. A folder with an ONNX model takes the tokens, the
    attention mask and the mask of what is pooled, and gives embeddings of length 1. Either is
    opened again, and its embeddings of 200 texts are compared with the encoder's, without and with
    a prompt. The folder appears when they agree, or not at all.

    Args:
        name: a run, a stage's folder, or any `model_name`.
        out: the folder to write; an earlier export there is replaced.
        format: what to write.
        int8: round an ONNX model's weights to 8 bits.
        dtype: of the weights; the encoder's own if None. ONNX models have float32.
        prompts: instructions by name, such as `query`; they replace the encoder's own.
        push_to_hub: `ORG/NAME` of a repository on the hub that gets the folder; a new one is
            private.
        report: called with each line on what is done.

    Returns:
        The folder.

    Raises:
        UserError: if an argument cannot be used, the folder cannot be written, or the encoder does
            something that the format cannot express.
    """
    out = Path(out)
    faults = Faults()
    faults.of(_require_format, format, int8, dtype)
    faults.of(_require_free, out)
    faults.of(require_repository, push_to_hub)
    faults.raise_all()
    (require_onnx if format == "onnx" else require_sentence_transformers)()
    _require_apart(out, locate(str(name)))
    opened = partial(_open, str(name), "float32" if format == "onnx" else dtype, prompts)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(out) as new:
            new.mkdir()
            # Passed on at once, so that a writer can let go of the weights.
            if format == "onnx":
                write_onnx(opened(), new, int8, report)
            else:
                _write_stock(opened(), new, report)
            _let_others_read(new)
    except OSError as error:
        raise UserError(
            f"The export could not be written to {out}: {error}. Choose a writable folder on a "
            "disk with enough space."
        ) from error
    report(f"Wrote {out}. Its README.md shows how to use and to serve it.")
    if push_to_hub:
        report(f"Uploaded to {push(out, push_to_hub)}")
    return out


def _write_stock(encoder: Encoder, folder: Path, report: Callable[[str], object]) -> None:
    words = stock(encoder)
    about = About.of(encoder, lineage_of(encoder))
    write_folder(encoder, words, folder)
    write_json(folder / LINEAGE, about.lineage)
    reference = reference_of(encoder, BATCH_SIZE, partial(counted_otherwise, encoder, words))
    del encoder  # the comparison needs room for the same weights again
    with reopened(folder, about.bidirectional, words.start, BATCH_SIZE) as program:
        compared = str(require_equal(reference, program.embed, "sentence-transformers"))
        apart = pooling_all(reference, program.embed_pooling_all)
    report(compared)
    report(f"Note: {apart}")
    card = stock_card(about, words.prompts, compared, [apart])
    (folder / "README.md").write_text(card, encoding="utf-8")


def _let_others_read(folder: Path) -> None:
    """Lets whoever may read a new file here read the weights, which safetensors writes for one.

    Serving programs run as another user.
    """
    mask = os.umask(0)
    os.umask(mask)
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~mask)


def _open(name: str, dtype: str | None, prompts: Mapping[str, str] | None) -> Encoder:
    """The encoder with its adapters merged, in the dtype that its folder records."""
    recorded = read_settings(locate(name))
    overrides: dict[str, Any] = {"dtype": dtype or recorded.get("dtype") or "float32"}
    if prompts is not None:
        overrides["prompts"] = dict(prompts)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tokenizer class.*")
        return Encoder.from_pretrained(name, quantization=None, **overrides)


def _require_format(format: str, int8: bool, dtype: str | None) -> None:
    if format not in get_args(Format):
        raise UserError(f"`format` is one of {', '.join(get_args(Format))}, but got {format!r}.")
    if format == "onnx" and dtype not in (None, "float32"):
        raise UserError(
            f"ONNX models are written in float32, but got `dtype={dtype!r}`. Leave it out, or set "
            "`int8` for a smaller one."
        )
    if int8 and format != "onnx":
        raise UserError(
            "`int8` is for ONNX models: serving programs round the others themselves. Leave it "
            "out, or set `format='onnx'`."
        )


def _require_free(out: Path) -> None:
    """Checks that writing the folder replaces an earlier export or nothing."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not any((out / name).is_file() for name in ("modules.json", "model.onnx")):
        raise UserError(f"`out`: {out} exists, and is not an export. Choose another folder.")


def _require_apart(out: Path, source: Source) -> None:
    for part in (source.folder or source.base, source.base, *source.adapters):
        place = Path(part).resolve()
        if place.exists() and out.resolve() in (place, *place.parents):
            raise UserError(f"`out`: {out} holds {part}, which is exported. Choose another folder.")
