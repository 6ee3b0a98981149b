"""A trained encoder on disk: a folder that peft, transformers and `Encoder` can open.

It holds an adapter (peft's files) or full weights (transformers'), the tokenizer,
`llm2vec_config.json` (how a text becomes an embedding) and `lineage.json` (what it was made from,
and how). Adapters of earlier stages are in `adapters/0`, `adapters/1`, … in the order of merging.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from llm2vec_pl.decoder import EARLIER, LINEAGE, SETTINGS, adapter_settings, display_name
from llm2vec_pl.distributed import gathered_state, is_sharded
from llm2vec_pl.encoder.int8_dynamic import INT8_DYNAMIC
from llm2vec_pl.encoder.loading import adapters_below, kept_on_top
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import read_json, unfinished, write_json
from llm2vec_pl.lora import EARLIER_NAME

if TYPE_CHECKING:
    from llm2vec_pl.encoder.encoder import Encoder


def save_encoder(
    encoder: Encoder,
    folder: str | Path,
    stage: dict[str, Any] | None = None,
    weights: dict[str, Tensor] | None = None,
    also: Callable[[Path], None] | None = None,
) -> Path:
    """Writes a loaded encoder to a folder, which appears whole or not at all.

    Args:
        encoder: with its weights.
        folder: where to write it; an existing folder is replaced.
        stage: what to add to the lineage: objective, configuration, data, steps, metrics.
        weights: the state of `encoder.decoder`, or of `encoder.causal_lm` without a LoRA, if this
            process does not hold it; `saved_weights` gathers it.
        also: writes further files into the folder before it appears.

    Returns:
        The folder.

    Raises:
        UserError: if it cannot be written; an existing folder then stays as it was.
    """
    if encoder.quantization == INT8_DYNAMIC:
        raise UserError(
            'An encoder with `quantization="int8_dynamic"` is not saved: its weights are rounded '
            "as it is loaded. Open it without quantization to save it."
        )
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with unfinished(folder) as new:
            new.mkdir()
            _write(encoder, new, stage, weights)
            if also is not None:
                also(new)
    except OSError as error:
        raise UserError(
            f"The encoder could not be written to {folder}: {error}. Choose a writable folder on a "
            "disk with enough space."
        ) from error
    return folder


def saved_weights(encoder: Encoder) -> dict[str, Tensor] | None:
    """The weights that `save_encoder` needs of a sharded encoder; every rank must call this.

    Returns:
        Whole weights on rank 0, only the adapter's if there is one; None for an encoder that each
        process holds whole.
    """
    if not is_sharded(encoder):
        return None
    if encoder.lora_rank:
        return gathered_state(encoder.decoder, trained_only=True)
    return gathered_state(encoder.causal_lm)


def _write(
    encoder: Encoder,
    folder: Path,
    stage: dict[str, Any] | None,
    weights: dict[str, Tensor] | None,
) -> None:
    if encoder.lora_rank:
        peft_model: Any = encoder.decoder
        if weights is None:  # earlier adapters on quantized weights have folders of their own
            state = peft_model.state_dict()
            weights = {key: v for key, v in state.items() if f".{EARLIER_NAME}" not in key}
        # With this, peft does not ask the hub whether the vocabulary has grown.
        peft_model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    elif kept_on_top(encoder):  # not merged: the weights are the base's
        _copy_adapter(encoder.adapters[-1], folder)
    else:
        encoder.causal_lm.save_pretrained(folder, state_dict=weights)
    for i, adapter in enumerate(adapters_below(encoder)):
        _copy_adapter(adapter, folder / EARLIER / str(i))
    encoder.tokenizer.save_pretrained(folder)
    write_json(folder / SETTINGS, encoder.settings())
    write_json(folder / LINEAGE, _lineage(encoder, stage))


def _lineage(encoder: Encoder, stage: dict[str, Any] | None) -> dict[str, Any]:
    source = encoder.source
    lineage = read_json(source.folder / LINEAGE) if source.folder else {}
    lineage = lineage or {
        "base_model": source.base_name,
        "revision": source.revision,
        "base_file": source.base_file,
        "base_fingerprint": encoder.origin.base if encoder.origin else None,
        "stages": [],
    }
    lineage["adapters"] = [display_name(adapter) for adapter in encoder.adapters]
    lineage["stages"] = [*lineage["stages"], *([stage] if stage else [])]
    return lineage


def _copy_adapter(adapter: str, folder: Path) -> None:
    """Copies an adapter and the record of its training: the new folder needs nothing else."""
    from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME

    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME):
        shutil.copyfile(Path(adapter) / name, folder / name)
    if settings := adapter_settings(adapter):
        write_json(folder / SETTINGS, settings)
