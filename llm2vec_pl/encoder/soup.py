"""Soups: one encoder whose weights are the average of those of several runs."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm2vec_pl.decoder import LINEAGE, SETTINGS
from llm2vec_pl.encoder.soup_parents import (
    Parent,
    read_parent,
    require_same_form,
    shared_notes,
)
from llm2vec_pl.encoder.soup_weights import average_weights
from llm2vec_pl.errors import UserError
from llm2vec_pl.files import read_json, unfinished, write_json
from llm2vec_pl.lora import average_adapters

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def average_encoders(
    folders: Sequence[str | Path],
    out: str | Path,
    weights: Sequence[float] | None = None,
    rank: int | None = None,
    slerp: bool = False,
    report: Callable[[str], object] = lambda line: None,
) -> Path:
    """Averages the weights of encoders that were trained from the same ones (a model soup).

    Of adapters, the updates B·A are averaged, and the result is one adapter of summed rank, exact
    unless a smaller rank is asked for. Full weights are averaged in float32, a part of a tensor at
    a time. The result is a folder like those of the runs, and its lineage names all parents.

    Args:
        folders: two or more encoders: a run's `encoder` folder, a recipe's folder for its newest
            run, or a name on the hub.
        out: the folder to write.
        weights: the weight of each encoder, at least 0; only their ratios count. Equal if None.
        rank: for adapters, the rank to reduce the result to by a singular value decomposition.
        slerp: interpolate between two encoders on the sphere, weight by weight, in place of the
            line (Shoemake 1985).
        report: called with each line on what is done.

    Returns:
        The folder.

    Raises:
        UserError: if the encoders do not have the same base, earlier stages and form; the error
            names the first difference. Also if an argument is wrong or the folder cannot be
            written.
    """
    shares = _shares(len(folders), weights)
    _require_options(len(folders), rank, slerp)
    parents = [read_parent(str(folder)) for folder in folders]
    require_same_form(parents)
    if rank is not None and not parents[0].is_adapter:
        raise UserError(
            "`rank` is for adapters, but these encoders have full weights. Leave it out."
        )
    out = Path(out)
    _require_free(out, parents)
    for parent, share in zip(parents, shares, strict=True):
        report(f"{share:.4g} of {parent.name} ({parent.fingerprint})")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(out) as new:
            _copy_rest(parents[0], new)
            write = _write_adapter if parents[0].is_adapter else _write_weights
            how = write(parents, shares, new, rank, slerp, report)
            _write_records(parents, shares, new, how)
    except OSError as error:
        raise UserError(
            f"The soup could not be written to {out}: {error}. Choose a writable folder on a disk "
            "with enough space."
        ) from error
    report(f"Wrote {out}: open it with Encoder.from_pretrained({str(out)!r}).")
    return out


def _shares(count: int, weights: Sequence[float] | None) -> list[float]:
    """The weights, divided by their sum."""
    if count < 2:
        raise UserError(f"A soup is made of two encoders or more, but got {count}.")
    weights = [1.0] * count if weights is None else list(weights)
    if len(weights) != count:
        raise UserError(
            f"`weights` has {len(weights)} numbers, but there are {count} encoders. Give one for "
            "each, in their order."
        )
    wrong = [weight for weight in weights if not math.isfinite(weight) or weight < 0]
    if wrong or not sum(weights):
        raise UserError(
            "`weights` are finite, at least 0, and not all 0, but got "
            f"{' '.join(f'{weight:g}' for weight in weights)}."
        )
    return [weight / sum(weights) for weight in weights]


def _require_options(count: int, rank: int | None, slerp: bool) -> None:
    if slerp and count != 2:
        raise UserError(
            f"`slerp` interpolates between two encoders, but got {count}. Leave it out."
        )
    if rank is not None and rank < 1:
        raise UserError(f"`rank` is at least 1, but got {rank}.")


def _require_free(out: Path, parents: Sequence[Parent]) -> None:
    """Checks that writing the folder replaces no parent, and nothing but an encoder."""
    for parent in parents:
        parts = [parent.folder, *map(Path, (parent.source.base, *parent.source.adapters))]
        held = {folder for part in parts for folder in (part.resolve(), *part.resolve().parents)}
        if out.resolve() in held:
            raise UserError(f"`out`: {out} holds {parent.name}. Choose another folder.")
    if out.exists() and not (out / LINEAGE).is_file() and not _is_empty(out):
        raise UserError(f"`out`: {out} exists, and is not an encoder. Choose another folder.")


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _copy_rest(parent: Parent, folder: Path) -> None:
    """Copies all but the weights and the records: tokenizer, earlier adapters, configuration."""

    def left_out(place: str, names: list[str]) -> set[str]:
        if Path(place) != parent.folder:
            return set()
        weights = {name for name in names if name.endswith(".safetensors")}
        return weights | {*ADAPTER, SETTINGS, LINEAGE, "README.md"}

    shutil.copytree(parent.folder, folder, ignore=left_out)


def _write_adapter(
    parents: Sequence[Parent],
    shares: Sequence[float],
    folder: Path,
    rank: int | None,
    slerp: bool,
    report: Callable[[str], object],
) -> dict[str, Any]:
    from safetensors.torch import save_file

    adapters = [parent.source.adapters[-1] for parent in parents]
    soup = average_adapters(adapters, shares, rank, slerp)
    config = read_json(Path(adapters[0]) / ADAPTER[0]) | soup.config
    write_json(folder / ADAPTER[0], config)
    save_file(soup.weights, folder / ADAPTER[1], metadata={"format": "pt"})
    loss = (
        f"reduced to this rank, which leaves out {soup.lost:.2%} of the updates' norm, at most "
        f"{soup.most_lost[0]:.2%} in one layer ({soup.most_lost[1]})"
        if rank is not None
        else "which is exact"
    )
    report(
        f"{_method(slerp)} of the LoRA's updates of {soup.layers} weights, rank {soup.rank}, {loss}"
    )
    lost = {} if rank is None else {"lost": soup.lost}
    return {"method": _method(slerp), "rank": soup.rank, **lost}


def _write_weights(
    parents: Sequence[Parent],
    shares: Sequence[float],
    folder: Path,
    rank: int | None,
    slerp: bool,
    report: Callable[[str], object],
) -> dict[str, Any]:
    files = [(parent.name, parent.files) for parent in parents]
    count = average_weights(files, shares, folder, slerp)
    report(f"{_method(slerp)} of {count} full weights, computed in float32")
    return {"method": _method(slerp)}


def _method(slerp: bool) -> str:
    return "spherical interpolation" if slerp else "average"


def _write_records(
    parents: Sequence[Parent], shares: Sequence[float], folder: Path, how: dict[str, Any]
) -> None:
    """Writes how texts become embeddings, and what the soup was made from."""
    first = parents[0]
    settings = {key: value for key, value in first.settings.items() if key not in first.notes}
    write_json(folder / SETTINGS, settings | shared_notes(parents))
    shared = _shared_stages(parents)
    soup = {
        "recipe": "merge",
        **how,
        "began": first.began,
        "parents": [
            {
                "name": parent.name,
                "weight": share,
                "fingerprint": parent.fingerprint,
                "stages": parent.stages[len(shared) :],
            }
            for parent, share in zip(parents, shares, strict=True)
        ],
    }
    write_json(folder / LINEAGE, {**first.lineage, "stages": [*shared, soup]})


def _shared_stages(parents: Sequence[Parent]) -> list[dict[str, Any]]:
    """The stages that all parents have gone through together, before the last one of each."""
    shared = []
    for each in zip(*(parent.stages[:-1] for parent in parents), strict=False):
        if len({json.dumps(stage, sort_keys=True) for stage in each}) > 1:
            break
        shared.append(each[0])
    return shared
