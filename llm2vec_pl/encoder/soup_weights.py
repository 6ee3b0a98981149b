"""The average of full weights, written to safetensors files piece by piece."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from llm2vec_pl.errors import UserError
from llm2vec_pl.lora import differing, slerp_coefficients

AT_ONCE = 2**24
"""Weights of each parent that are in memory at once: 64 MiB in float32."""


class Tensors(NamedTuple):
    """The tensors of one parent, wherever they are in its files.

    Args:
        name: of the parent, for errors.
        slices: for each tensor, safetensors' access to its rows.
    """

    name: str
    slices: Mapping[str, Any]


def average_weights(
    parents: Sequence[tuple[str, Sequence[str]]],
    shares: Sequence[float],
    folder: Path,
    slerp: bool = False,
) -> int:
    """Writes the average of full weights into files like those of the first parent.

    It is computed in float32, a part of a tensor at a time, and written in the weights' own dtype.

    Args:
        parents: the name and the safetensors files of each.
        shares: the weight of each, of sum 1.
        folder: where to write the files.
        slerp: interpolate between two on the sphere, tensor by tensor, in place of the line.

    Returns:
        The number of tensors.

    Raises:
        UserError: if the parents' tensors differ in name, shape or dtype, or whole numbers among
            them in their values.
    """
    with contextlib.ExitStack() as stack:
        opened = [Tensors(name, _open(files, stack)) for name, files in parents]
        for other in opened[1:]:
            _require_same_tensors(opened[0], other)
        for file in parents[0][1]:
            with Path(file).open("rb") as old, (folder / Path(file).name).open("wb") as new:
                for key in _copy_header(old, new):
                    for part in _average(opened, key, shares, slerp):
                        new.write(part.reshape(-1).view(torch.uint8).numpy().data)
    return len(opened[0].slices)


def _open(files: Sequence[str], stack: contextlib.ExitStack) -> dict[str, Any]:
    from safetensors import safe_open

    found: dict[str, Any] = {}
    for file in files:
        opened = stack.enter_context(safe_open(file, framework="pt"))
        found |= {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118
    return found


def _require_same_tensors(first: Tensors, other: Tensors) -> None:
    names = first.name, other.name
    for key in sorted(first.slices.keys() ^ other.slices.keys()):
        there = ["there" if key in each.slices else "missing" for each in (first, other)]
        raise differing(names, f"The weight {key}", *there)
    for key, one in first.slices.items():
        two = other.slices[key]
        if one.get_shape() != two.get_shape():
            raise differing(names, f"The shape of {key}", one.get_shape(), two.get_shape())
        if one.get_dtype() != two.get_dtype():
            raise differing(names, f"The dtype of {key}", one.get_dtype(), two.get_dtype())


def _copy_header(old: BinaryIO, new: BinaryIO) -> list[str]:
    """Copies a file's header, which says where each tensor is; the tensors in that order."""
    length = old.read(8)
    header = old.read(*struct.unpack("<Q", length))
    new.write(length + header)
    tensors = json.loads(header)
    tensors.pop("__metadata__", None)
    return sorted(tensors, key=lambda key: tuple(tensors[key]["data_offsets"]))


def _average(
    parents: Sequence[Tensors], key: str, shares: Sequence[float], slerp: bool
) -> Iterator[Tensor]:
    """The parts of an averaged tensor, one after another, in its own dtype."""
    slices = [parent.slices[key] for parent in parents]
    first = next(_parts(slices[0]), None)
    if first is None:
        return
    if not first.is_floating_point():
        yield from _equal(parents, key)
        return
    wide = torch.promote_types(first.dtype, torch.float32)
    if slerp:
        shares = _spherical(slices, shares[1])
    used = [(each, share) for each, share in zip(slices, shares, strict=True) if share]
    for parts in zip(*(_parts(each) for each, _ in used), strict=True):
        total = torch.zeros(parts[0].shape, dtype=wide)
        for part, (_, share) in zip(parts, used, strict=True):
            total.add_(part.to(wide), alpha=share)
        yield total.to(first.dtype)


def _parts(tensor: Any) -> Iterator[Tensor]:
    """A tensor's rows, as many at once as `AT_ONCE` allows."""
    shape = tensor.get_shape()
    if not shape:
        yield tensor[...]
        return
    width = max(1, torch.Size(shape[1:]).numel())
    rows = max(1, AT_ONCE // width)
    for start in range(0, shape[0], rows):
        yield tensor[start : start + rows].contiguous()


def _equal(parents: Sequence[Tensors], key: str) -> Iterator[Tensor]:
    """The parts of a tensor without fractions, which has no average."""
    for parts in zip(*(_parts(parent.slices[key]) for parent in parents), strict=True):
        for parent, part in zip(parents, parts, strict=True):
            if not torch.equal(parts[0], part):
                raise UserError(
                    f"{key} holds no fractions, and differs between {parents[0].name} and "
                    f"{parent.name}: it has no average. Name runs in which it is the same."
                )
        yield parts[0]


def _spherical(slices: Sequence[Any], t: float) -> tuple[float, float]:
    """What two tensors are multiplied by, from their inner product and their norms."""
    dot = first = second = 0.0
    for one, two in zip(*(_parts(each) for each in slices), strict=True):
        a, b = one.double().reshape(-1), two.double().reshape(-1)
        dot += float(a @ b)
        first += float(a @ a)
        second += float(b @ b)
    return slerp_coefficients(dot, first**0.5, second**0.5, t)
