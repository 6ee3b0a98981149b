"""What a trained encoder is on disk: a folder that peft, transformers and `Encoder` open.

It holds an adapter (peft's files) or full weights (transformers'), the tokenizer,
`llm2vec_config.json` (how a text becomes an embedding) and `lineage.json` (what it was made from,
and how). Adapters of earlier stages lie in `adapters/0`, `adapters/1`, … in the order of merging.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from llm2vec_pl.decoder import EARLIER, LINEAGE, SETTINGS, adapter_settings, display_name
from llm2vec_pl.distributed import gathered_state, is_sharded
from llm2vec_pl.encoder.int8_dynamic import INT8_DYNAMIC
from llm2vec_pl.encoder.loading import adapters_below, kept_on_top
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import read_json, write_json
from llm2vec_pl.lora import EARLIER_NAME

if TYPE_CHECKING:
    from llm2vec_pl.encoder.encoder import Encoder


def save_encoder(
    encoder: Encoder,
    folder: str | Path,
    stage: dict[str, Any] | None = None,
    weights: dict[str, Tensor] | None = None,
) -> Path:
    """Writes a loaded encoder to a folder, which appears whole or not at all.

    Args:
        encoder: with its weights.
        folder: where to; one that exists is replaced.
        stage: what to add to the lineage: objective, configuration, data, steps, metrics.
        weights: the state of `encoder.decoder`, or of `encoder.causal_lm` without a LoRA, where
            this process does not hold it (`saved_weights`).

    Returns:
        The folder.

    Raises:
        UserError: if it cannot be written; what was there before is then still there.
    """
    if encoder.quantization == INT8_DYNAMIC:
        raise UserError(
            "An encoder in --encoder.quantization int8_dynamic is not saved: its weights are "
            "rounded as it is loaded. Open it without that to save it."
        )
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.parent / f".{folder.name}.unfinished-{os.getpid()}"
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        _write(encoder, unfinished, stage, weights)
        _replace(folder, unfinished)
    except OSError as error:
        raise UserError(f"The encoder could not be written to {folder}: {error}.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def saved_weights(encoder: Encoder) -> dict[str, Tensor] | None:
    """What `save_encoder` needs of a sharded encoder; every rank must ask for it.

    Returns:
        Whole weights on rank 0, those of the adapter only where there is one; None of an encoder
        that each process holds whole.
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
        # Told so, peft does not ask the hub whether the vocabulary has grown.
        peft_model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    elif kept_on_top(encoder):  # it is not in the weights, which are the base's
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
        "base_fingerprint": encoder.origin.base if encoder.origin else None,
        "stages": [],
    }
    lineage["adapters"] = [display_name(adapter) for adapter in encoder.adapters]
    lineage["stages"] = [*lineage["stages"], *([stage] if stage else [])]
    return lineage


def _copy_adapter(adapter: str, folder: Path) -> None:
    """With what it says about its training, so that the new folder needs nothing else."""
    from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME

    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME):
        shutil.copyfile(Path(adapter) / name, folder / name)
    if settings := adapter_settings(adapter):
        write_json(folder / SETTINGS, settings)


def _replace(folder: Path, new: Path) -> None:
    """Puts a finished folder in another's place; the old one goes once the new one is there."""
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old-", dir=folder.parent))
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)
