"""Finds, on a CPU, where a step would wait for a GPU.

The device is "cpu:0" here, and "cpu" the host. Tensors of the two are told apart by where they come
from: what was sent with `.to(device)` or made with `device=`, the weights, and all that was computed
from these would lie on a GPU. To read one is to wait: `item()`, `tolist()`, `if tensor:`, a boolean mask as an index, whose result has a size
that only the device knows. So is a copy to the device that does not say `non_blocking`. What a
kernel of CUDA waits for by itself cannot be seen here.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.utils.checkpoint
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST, DEVICE = torch.device("cpu"), torch.device("cpu", 0)
aten = torch.ops.aten
INDEXING = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)
ASKING = {
    aten._local_scalar_dense,
    aten.equal,
    aten.is_nonzero,
    aten.masked_select,
    aten.nonzero,
    aten.repeat_interleave,
    aten.unique_consecutive,
    aten.unique_dim,
    aten._unique,
    aten._unique2,
}
"""Operators of which the host needs the result, or its size."""

DEVICE_OF: Any = Tensor.device.__get__  # type: ignore[attr-defined]


class Wait(NamedTuple):
    """A question to the device, and who asks it."""

    step: int
    what: str
    where: str  # the innermost line outside torch
    stack: str


class Waits:
    """Notes each wait while it is entered.

    Args:
        step: says which step runs.
    """

    def __init__(self, step: Callable[[], int] = lambda: 0) -> None:
        self.step = step
        self.found: list[Wait] = []
        self._on_device: dict[int, Any] = {}  # storages are kept: another may not take their place
        self._modes = (Calls(self), Operators(self))
        # Recomputed layers are compared with the first ones by their devices, which `Calls` does
        # not play in a backward pass.
        checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
        self._unchecked = mock.patch.dict(checks, default=checks["none"])

    def in_steps(self, steps: Iterable[int], found: Iterable[Wait] | None = None) -> list[str]:
        """What was found in these steps: what, and where."""
        chosen = set(steps)
        found = self.found if found is None else found
        return sorted({f"{w.what} at {w.where}" for w in found if w.step in chosen})

    def send(self, *tensors: Tensor) -> None:
        """Says that these are on the device."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._on_device[storage._cdata] = storage

    def fetch(self, tensor: Tensor) -> None:
        """Says that this is on the host."""
        self._on_device.pop(tensor.untyped_storage()._cdata, None)

    def has(self, tensor: Tensor) -> bool:
        """Whether a GPU would hold it."""
        return tensor.untyped_storage()._cdata in self._on_device

    def note(self, what: str) -> None:
        """Writes down who has just asked the device."""
        frames = traceback.extract_stack()
        outside = [f for f in frames if "/torch/" not in f.filename and f.filename != __file__]
        last = outside[-1]
        if last.name == "batch_to":  # Lightning's, which does not wait for a GPU but for a CPU
            return
        where = f"{'/'.join(Path(last.filename).parts[-3:])}:{last.lineno} {last.name}"
        self.found.append(Wait(self.step(), what, where, "".join(traceback.format_list(outside))))

    def __enter__(self) -> Waits:
        self._unchecked.start()
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)
        self._unchecked.stop()


class Calls(TorchFunctionMode):
    """What Python asks of tensors: moves, new tensors on a device, values as numbers."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func == DEVICE_OF:
            # transformers would leave what it takes for filled as the memory happens to be.
            if (device := func(args[0])).type == "meta":
                return device
            return DEVICE if self.waits.has(args[0]) else HOST
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor):
            if func in (Tensor.tolist, Tensor.numpy) and self.waits.has(args[0]):
                self.waits.note(func.__name__)
            return result
        if func is Tensor.cpu:
            return self._moved(args[0], result, False, False)
        targets = [a for a in (*args, *kwargs.values()) if isinstance(a, (torch.device, str))]
        # torch itself moves tensors to what C++ says is the device of others: "cpu".
        if func is Tensor.to and targets and "/torch/" not in sys._getframe(1).f_code.co_filename:
            to_device = torch.device(targets[0]) == DEVICE
            return self._moved(args[0], result, to_device, kwargs.get("non_blocking", False))
        if kwargs.get("device") is not None and torch.device(kwargs["device"]) == DEVICE:
            if func in (torch.tensor, torch.as_tensor):
                self.waits.note("copy to the device")
            self.waits.send(result)
        return result

    def _moved(self, before: Tensor, after: Tensor, to_device: bool, non_blocking: bool) -> Tensor:
        if self.waits.has(before) == to_device:
            return after
        if not non_blocking:
            self.waits.note(f"copy to the {'device' if to_device else 'host'}")
        after = after.detach().clone()
        (self.waits.send if to_device else self.waits.fetch)(after)
        return after


class Operators(TorchDispatchMode):
    """What the operators do, those of the backward pass too: where their results lie."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        sent = [tensor for tensor in given if self.waits.has(tensor)]
        result = func(*args, **kwargs)
        # In a backward pass `Calls` is off, and what is made anew cannot be told apart. A forward
        # pass that is run again there has been seen before.
        backward = torch._C._current_graph_task_id() != -1
        if not sent and (given or not backward):
            return result
        if sent and asks(name, args, kwargs):
            self.waits.note(str(name))
        elif not backward and any(t.dim() for t in given if not self.waits.has(t)):
            self.waits.note(f"{name} with a tensor of the host")
        self.waits.send(*(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)))
        return result


def asks(name: Any, args: Any, kwargs: Any) -> bool:
    """Whether the host needs to know what an operator finds on the device."""
    if name in INDEXING:
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return name in ASKING and kwargs.get("output_size") is None


class Watched(Callback):
    """Watches a fit. What a batch logs, and the next one's way to the device, belong to it."""

    def __init__(self) -> None:
        self.waits = Waits()
        self._watching = contextlib.ExitStack()

    def setup(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        if hasattr(trainer.strategy, "_root_device"):
            trainer.strategy._root_device = DEVICE
        else:
            trainer.strategy.parallel_devices = [DEVICE] * trainer.num_devices

    def on_fit_start(self, trainer: Any, pl_module: nn.Module) -> None:
        counted = trainer.fit_loop.epoch_loop.batch_progress.total
        self.waits.step = lambda: int(counted.ready)
        self.waits.send(*pl_module.parameters(), *pl_module.buffers())
        self._watching.enter_context(self.waits)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._watching.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Lightning tears nothing down then, and all later tests would be watched too."""
        self._watching.close()
