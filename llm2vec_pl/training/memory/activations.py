"""How much a decoder keeps for its backward pass, measured on tensors that have only shapes.

A formula for activations fits one architecture. Here the modelling code itself runs, on fake
tensors (no memory, no arithmetic), and the bytes of all live storages are counted. One layer of
each kind runs, then one more; what that adds is multiplied by the number of layers. This takes
tenths of a second for a model of any size.
"""

from __future__ import annotations

import copy
import logging
import warnings
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llm2vec_pl.bidirectional import accepts_position_ids, text_config
from llm2vec_pl.decoder import decoder_layers
from llm2vec_pl.encoder import (
    PACKED,
    PackedTexts,
    attention_as_on_a_gpu,
    install_packing,
    packed_states,
)


@dataclass(frozen=True)
class Activations:
    """Bytes in addition to the weights and their gradients.

    Args:
        kept: bytes at the end of the forward pass.
        transient: the most bytes held temporarily in addition to `kept`.
        last: the most bytes while the backward pass is in its last layer.
    """

    kept: int
    transient: int
    last: int


def measure(
    decoder: nn.Module,
    rows: int,
    length: int,
    prepare: Callable[[nn.Module], nn.Module],
    autocast: torch.dtype | None = None,
    gpu: bool = True,
) -> Activations:
    """The activations of a forward and backward pass of the decoder.

    Args:
        decoder: a decoder on the meta device; its list of layers is changed.
        rows: number of texts that run at once.
        length: length of each text, in tokens.
        prepare: adds what is trained to a copy of the decoder, also on the meta device.
        autocast: the dtype of mixed precision; None without it.
        gpu: whether dropout and attention save what they save on a GPU.

    Raises:
        Exception: whatever the modelling code raises on tensors without data.
    """

    def run(layers: Sequence[int]) -> tuple[int, int]:
        chosen = nn.ModuleList(every[i] for i in sorted(layers))
        setattr(parent, name, chosen)
        return _run(prepare(copy.deepcopy(decoder)), rows, length, autocast, gpu)

    parent, name = _longest_list(decoder)
    every = list(getattr(parent, name))
    kinds = _alike(every)
    one_of_each = [same[0] for same in kinds]
    with quiet():
        first, last = run(one_of_each)
        kept, transient = first, last - first
        for same in kinds:
            if len(same) > 1:
                more, peak = run([*one_of_each, same[1]])
                kept += (len(same) - 1) * (more - first)
                transient = max(transient, peak - more)
    return Activations(kept, transient, last)


@torch.inference_mode(False)
@torch.enable_grad()
def _run(
    decoder: nn.Module, rows: int, length: int, autocast: torch.dtype | None, gpu: bool
) -> tuple[int, int]:
    """The bytes alive when the forward pass ends, and the most that were ever alive."""
    decoder.train()
    # The fake device is always the CPU: autograd cannot run on fake CUDA tensors without CUDA.
    live = LiveBytes(gpu)
    attention = attention_as_on_a_gpu() if gpu else nullcontext()
    with FakeTensorMode(), torch.device("cpu"), attention:
        _give_shapes(decoder)
        live.ignore((*decoder.parameters(), *decoder.buffers()))
        for parameter in decoder.parameters():
            if parameter.requires_grad:  # gradients are counted separately
                parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        with live:
            with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
                states = _states(decoder, rows, length)
            kept = live.now
            states.backward(torch.empty_like(states))
        return kept, live.most()


def _states(decoder: nn.Module, rows: int, length: int) -> Tensor:
    ids = torch.zeros(rows, length, dtype=torch.long)
    if text_config(decoder)._attn_implementation in PACKED and accepts_position_ids(decoder):
        install_packing()
        # Not to save padding: a packed batch builds no (L, L) mask, on whose data code depends.
        places = torch.arange(rows * length)
        boundaries = torch.arange(rows + 1, dtype=torch.int32)
        texts = PackedTexts(((rows, length),), places, places, boundaries)
        return packed_states(decoder, ids, texts)
    states: Tensor = decoder(input_ids=ids, use_cache=False).last_hidden_state
    return states


def _give_shapes(decoder: nn.Module) -> None:
    """Replaces tensors on the meta device, which autocast does not know, with fake tensors."""
    made: dict[int, nn.Parameter] = {}  # a weight that is used twice stays one weight
    for module in decoder.modules():
        for name, p in module._parameters.items():
            if p is not None:
                if id(p) not in made:
                    fake = torch.empty(p.shape, dtype=p.dtype)
                    made[id(p)] = nn.Parameter(fake, requires_grad=p.requires_grad)
                module._parameters[name] = made[id(p)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operations have made and that are still in use.

    Args:
        gpu: whether a dropout's mask has one byte per number, as on a GPU; a CPU keeps factors.
    """

    def __init__(self, gpu: bool) -> None:
        super().__init__()
        self.gpu = gpu
        self.now = 0
        self._most = 0
        self._freed: weakref.WeakKeyDictionary[Any, Callable[[], Any]] = weakref.WeakKeyDictionary()

    def most(self) -> int:
        """The most bytes that were alive at once."""
        self._most = max(self._most, self.now)
        return self._most

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Leaves out tensors that existed before."""
        self._freed.update((tensor.untyped_storage(), int) for tensor in tensors)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Runs the operation and notes what it has made."""
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        if self.gpu and function is torch.ops.aten.bernoulli_.float:
            self._resize(output.untyped_storage(), output.numel())
        return output

    def _note(self, storage: Any) -> None:
        if storage in self._freed:
            return
        # Before it is added: a gradient is freed before the next operation, and makes no peak.
        self._most = max(self._most, self.now)
        self._resize(storage, storage.nbytes())

    def _resize(self, storage: Any, size: int) -> None:
        if storage in self._freed:
            self._freed[storage]()
        self.now += size
        self._freed[storage] = weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


def _longest_list(decoder: nn.Module) -> tuple[nn.Module, str]:
    """The module that holds the decoder's list of layers, and the list's name in it."""
    names: dict[str, int] = defaultdict(int)
    for layer in decoder_layers(decoder):
        names[layer.rpartition(".")[0]] += 1
    parent, _, name = max(names, key=lambda each: names[each]).rpartition(".")
    return decoder.get_submodule(parent), name


def _alike(layers: Sequence[nn.Module]) -> list[list[int]]:
    """The numbers of the layers, grouped by kind."""
    kinds: dict[Any, list[int]] = defaultdict(list)
    for number, layer in enumerate(layers):
        modules = tuple((name, type(module)) for name, module in layer.named_modules())
        shapes = tuple((name, parameter.shape) for name, parameter in layer.named_parameters())
        kinds[modules, shapes].append(number)
    return list(kinds.values())


@contextmanager
def quiet() -> Iterator[None]:
    """Silences what libraries say about models that exist only to be measured."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
