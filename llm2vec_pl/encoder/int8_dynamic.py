"""Linear layers with weights and activations in int8, to encode on a CPU.

Weights have one scale per output, activations one per token, computed as they arrive (ZeroQuant,
Yao et al. 2022). torch's own dynamic quantization has one scale for all tokens of a batch: a token
with large activations, such as the first one in many decoders, then rounds the others to zero, and
an embedding depends on the other texts in its batch.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from llm2vec_pl.decoder import multiplies_in_int8
from llm2vec_pl.errors import UserError

if TYPE_CHECKING:
    from llm2vec_pl.encoder.encoder import Encoder

INT8_DYNAMIC = "int8_dynamic"
ARGUMENT = f'`quantization="{INT8_DYNAMIC}"`'

LEVELS = 127
"""The largest weight of a row becomes this integer."""

SENTENCES = (
    "A cat sleeps in the sun.",
    "How do I read a file line by line?",
    "Water boils at a lower temperature in the mountains, where the air is thin.",
    "Return a sorted copy of the list, in ascending order by default.",
    "The museum reopened in 1998 after nine years of restoration.",
    "She said that she would come, but the last train had already left when she got there.",
    "Stock markets fell on Monday as investors waited for the central bank's decision.",
    "yes",
)
"""Embedded before and after the rounding, to report what int8 costs."""


class Fidelity(NamedTuple):
    """How close embeddings in int8 are to those of the weights before rounding.

    Args:
        dtype: of the weights before rounding.
        median: of the cosines over `SENTENCES`.
        least: the lowest of these cosines.
    """

    dtype: str
    median: float
    least: float

    def __str__(self) -> str:
        return (
            f"{INT8_DYNAMIC}: cosine with the {self.dtype} embeddings {self.median:.3f} "
            f"(least {self.least:.3f})"
        )


class Int8Linear(nn.Module):
    """A linear layer that multiplies in int8; without gradients.

    Args:
        linear: the layer to round; its weight is (O, I).
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        with torch.no_grad():
            weight = linear.weight.float()  # (O, I)
            scales = _largest(weight).squeeze(1).double() / LEVELS  # (O,)
            zeros = torch.zeros(len(scales), dtype=torch.long)
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", r"torch\.quantize_per_tensor, torch\.quantize_per"
                )
                rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
            self._pack(rounded)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Packs a copied or unpickled layer as this CPU needs it; torch packs it in its own way."""
        super().__setstate__(state)
        self._pack(torch.ops.quantized.linear_unpack(self._packed)[0])

    def _pack(self, rounded: Tensor) -> None:
        # oneDNN is faster, but without VNNI it does not add up as exactly.
        self._exact = multiplies_in_int8()
        with _engine("onednn" if self._exact else torch.backends.quantized.engine):
            self._packed: Any = torch.ops.quantized.linear_prepack(rounded, None)

    @property
    def weight(self) -> Tensor:
        """The rounded weight in float32, (O, I): modules such as routers read it directly."""
        rounded: Tensor = torch.ops.quantized.linear_unpack(self._packed)[0]
        return rounded.dequantize()

    def forward(self, states: Tensor) -> Tensor:
        """The layer's output, (..., I) -> (..., O), in the dtype of its input."""
        rows = states.reshape(-1, self.in_features).float()  # (T, I)
        scales = _largest(rows)  # (T, 1)
        # The kernel takes its range from its input. A last row with -1 and 1 makes the range the
        # same for every batch, and each token then uses all of it.
        scaled = rows.new_empty(len(rows) + 1, self.in_features)
        torch.div(rows, scales, out=scaled[:-1])
        scaled[-1] = 1.0
        scaled[-1, 0] = -1.0
        # 7 bits for activations, since x86 without VNNI adds two products in 16 bits. On ARM there
        # is no such option, and torch warns if it is set.
        reduced = not self._exact and torch.backends.quantized.engine != "qnnpack"
        product: Tensor = torch.ops.quantized.linear_dynamic(scaled, self._packed, reduced)
        output = product[:-1].mul_(scales)  # (T, O)
        if self.bias is not None:
            output += self.bias
        return output.view(*states.shape[:-1], self.out_features).to(states.dtype)

    def extra_repr(self) -> str:
        """What `print` shows of the layer."""
        return f"in_features={self.in_features}, out_features={self.out_features}"

    def _apply(self, fn: Any, recurse: bool = True) -> Int8Linear:
        """Refuses to move to another device: the packed weights would be left behind."""
        if (device := fn(torch.empty(0)).device).type != "cpu":
            raise UserError(_only_on_a_cpu(device))
        super()._apply(fn, recurse)
        return self


def refuse_training(lora_rank: int, compile: bool) -> None:
    """Checks that no other argument of an `Encoder` asks to train or to compile it.

    Raises:
        UserError: if one does.
    """
    if lora_rank:
        raise UserError(
            f"{ARGUMENT} is for encoding, and cannot be combined with a LoRA to train "
            f"(`lora_rank={lora_rank}`). Set `lora_rank=0` to encode, or "
            '`quantization="nf4"` or `quantization="int8"` to train.'
        )
    if compile:
        raise UserError(
            f"{ARGUMENT} cannot be combined with `compile=True`: its kernels cannot be compiled. "
            "Leave out one of the two."
        )


def require_quantizable(
    decoder: nn.Module, mesh: DeviceMesh | None, device: torch.device
) -> list[nn.Linear]:
    """The linear layers to round: at least one.

    Routers of mixtures of experts have types of their own and are left alone, as they are for a
    LoRA (`lora.targets.linear_layers`).

    Args:
        decoder: with its weights.
        mesh: the ranks that share them, if any.
        device: where the encoder is to run.

    Raises:
        UserError: if there is no such layer, or this machine or device cannot multiply in int8.
    """
    if device.type != "cpu":
        raise UserError(_only_on_a_cpu(device))
    if mesh is not None:
        raise UserError(
            f'{ARGUMENT} does not work with sharded weights. Leave out `Trainer(strategy="fsdp2")`.'
        )
    if not _has_kernels():
        raise UserError(
            f"{ARGUMENT}: this torch ({torch.__version__}) has no int8 kernels for this CPU. "
            'Leave it out, or set `dtype="bfloat16"` for half the memory.'
        )
    modules = list(decoder.modules())
    layers = [m for m in modules if type(m) is nn.Linear]
    layers = layers or [m for m in modules if isinstance(m, nn.Linear)]  # falcon's
    if not layers:
        raise UserError(
            f"{ARGUMENT} rounds layers of type nn.Linear, but {type(decoder).__name__} has none, "
            "so nothing was quantized. Leave it out."
        )
    return layers


def quantize(encoder: Encoder) -> Fidelity:
    """Rounds a loaded encoder's linear layers in place, one by one, and prints what that costs.

    Args:
        encoder: a loaded one, whose layers have passed `require_quantizable`.

    Returns:
        How close the embeddings stay.
    """
    before = encoder.encode(SENTENCES)
    round_layers(encoder.decoder)
    encoder.requires_grad_(False)
    cosines = torch.cosine_similarity(encoder.encode(SENTENCES), before)
    fidelity = Fidelity(encoder.dtype, cosines.median().item(), cosines.min().item())
    print(fidelity, file=sys.stderr)
    return fidelity


def round_layers(decoder: nn.Module) -> None:
    """Replaces each linear layer with an `Int8Linear`, and frees its weights before the next."""
    places = _places(decoder)
    while places:
        linear, where = places.popitem()
        rounded = Int8Linear(linear)
        for parent, name in where:
            setattr(parent, name, rounded)


def _places(decoder: nn.Module) -> dict[nn.Linear, list[tuple[nn.Module, str]]]:
    """Where each layer is used: some architectures use one in several places."""
    layers = set(require_quantizable(decoder, None, torch.device("cpu")))
    places: dict[nn.Linear, list[tuple[nn.Module, str]]] = {}
    for parent in decoder.modules():
        for name, child in parent._modules.items():
            if child in layers:
                places.setdefault(child, []).append((parent, name))  # type: ignore[arg-type]
    return places


@contextlib.contextmanager
def _engine(name: str) -> Iterator[None]:
    """Packs weights for one of torch's libraries of int8 kernels."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before


def _has_kernels() -> bool:
    engine = torch.backends.quantized.engine
    return engine != "none" and hasattr(torch.ops.quantized, "linear_dynamic")


def _largest(rows: Tensor) -> Tensor:
    """The largest absolute value of each row, (T, I) -> (T, 1); never 0."""
    largest = torch.maximum(rows.amax(dim=1, keepdim=True), -rows.amin(dim=1, keepdim=True))
    return largest.clamp_min_(torch.finfo(torch.float32).tiny)


def _only_on_a_cpu(device: torch.device) -> str:
    return (
        f"{ARGUMENT} runs on a CPU only, but the device is {device}. Leave the encoder on the CPU, "
        'or set `quantization="int8"` or `quantization="nf4"`.'
    )
