"""Weights that stream from disk into a sharded decoder, each rank reading its own rows.

The model is built without memory (on PyTorch's meta device), sharded, and then filled: each rank
reads its own rows of each matrix straight from the safetensors files. It never holds more than its
share of the weights and the pages of one file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from llm2vec_pl.decoder.source import Source, weight_files

Slot = tuple[nn.Module, str]
"""A module and the name of one of its parameters."""


class WeightFiles:
    """The safetensors files of a model, and which parameters each of them holds.

    Args:
        files: for the path of each file, {parameter: its name in the file}.
    """

    def __init__(self, files: dict[str, dict[str, str]]) -> None:
        self.files = files

    @classmethod
    def of(cls, source: Source, model: PreTrainedModel) -> WeightFiles | None:
        """The files of a source, from a folder or the hub.

        Returns:
            None if they do not hold exactly the model's weights, by name and shape: transformers
            converts some architectures, such as mixtures of experts, while it reads them.
        """
        from safetensors import safe_open

        if _is_converted(model):
            return None
        state = model.state_dict(keep_vars=True)
        missing = {id(value) for value in state.values()}
        files: dict[str, dict[str, str]] = {}
        for path in weight_files(source):
            with safe_open(path, framework="pt") as file:
                keys = set(file.keys())
                for name, value in state.items():
                    key = _key(name, model.base_model_prefix, keys)
                    if key and tuple(file.get_slice(key).get_shape()) == tuple(value.shape):
                        files.setdefault(path, {})[name] = key
                        missing.discard(id(value))
        return None if missing or not files else cls(files)

    def read_buffers(self, model: PreTrainedModel) -> None:
        """Fills the buffers that are saved with the weights."""
        buffers = dict(model.named_buffers())
        for name, read in self._slices():
            if name in buffers:
                buffers[name].copy_(read[:] if buffers[name].dim() else read)

    def read_parameters(self, places: dict[str, Slot], device: torch.device) -> None:
        """Fills parameters on the meta device with their weights, or with this rank's rows.

        Args:
            places: where each parameter is, by its name in the causal language model.
            device: where the weights go.
        """
        filled: dict[int, nn.Parameter] = {}  # a tied weight is filled once
        unfilled = {id(p): p for p in (getattr(*place) for place in places.values())}
        for name, rows in self._slices():
            if name not in places:
                continue
            meta = getattr(*places[name])
            if id(meta) in filled or id(meta) not in unfilled:
                continue
            filled[id(meta)] = _materialised(meta, device)
            _fill(filled[id(meta)], rows)
        for module, attribute in places.values():
            meta = getattr(module, attribute)
            if id(meta) in filled:
                module._parameters[attribute] = filled[id(meta)]

    def _slices(self) -> Iterator[tuple[str, Any]]:
        from safetensors import safe_open

        for path, names in self.files.items():
            with safe_open(path, framework="pt") as file:
                for name, key in names.items():
                    yield name, file.get_slice(key)


def slots_of(model: nn.Module) -> dict[str, Slot]:
    """Where a model's parameters are, which stays true once a LoRA has wrapped the modules."""
    return {
        f"{prefix}.{name}" if prefix else name: (module, name)
        for prefix, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
    }


@torch.no_grad()
def _fill(parameter: nn.Parameter, rows: Any) -> None:
    if not parameter.dim():
        parameter.copy_(rows[...])
        return
    if not isinstance(parameter, DTensor):
        parameter.copy_(rows[:])
        return
    own = parameter.to_local()
    if own.numel():
        start = -(-len(parameter) // parameter.device_mesh.size())
        start *= parameter.device_mesh.get_local_rank()  # the cut of torch.chunk
        own.copy_(rows[start : start + len(own)])


def _materialised(meta: Tensor, device: torch.device) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(meta, device=device), requires_grad=meta.requires_grad)


def _is_converted(model: PreTrainedModel) -> bool:
    """Whether transformers changes these weights as it reads them."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    if getattr(model, "_keep_in_fp32_modules", None) and model.dtype != torch.float32:
        return True
    try:
        return bool(get_model_conversion_mapping(model, add_legacy=False))
    except TypeError:  # another version of transformers: names and shapes are compared anyway
        return False


def _key(name: str, prefix: str, keys: set[str]) -> str | None:
    candidates = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
    return next((key for key in candidates if key in keys), None)
