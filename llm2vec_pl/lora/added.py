"""A LoRA whose output is added by the product that computes it.

peft computes the adapter's output, scales it and adds it to the layer's: two passes over tensors of
the layer's full width, and a third one in the backward pass. With a rank of 16 they take longer
than the adapter's own products. Here the scale goes on the R numbers between the two matrices, and
the second product adds its result to the layer's output in place.
"""

from __future__ import annotations

from typing import Any

from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from llm2vec_pl.lora.dropout import DroppedLinear


def add_in_place(decoder: nn.Module) -> None:
    """Makes the adapters of a decoder add their outputs in place.

    Args:
        decoder: as peft has wrapped it. Layers that peft treats in a way of their own, such as
            quantized ones, stay as they are.
    """
    for layer in decoder.modules():
        if type(layer) is Linear:
            layer.__class__ = AddedLinear


class AddedLinear(Linear):
    """peft's linear layer with a LoRA: x -> W x + s B A x, with the same weights and settings."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., D) -> (..., O), in the dtype of the layer without its LoRA."""
        names = [name for name in self.active_adapters if name in self.lora_A]
        if args or kwargs or self.merged or self.disable_adapters or not self._are_plain(names):
            whole: Tensor = super().forward(x, *args, **kwargs)
            return whole
        rows = x.reshape(-1, x.shape[-1])  # (T, D)
        result: Tensor = self.base_layer(rows)  # (T, O)
        dtype = result.dtype
        for name in names:
            low = self.lora_A[name](rows)  # (T, R)
            if low.dtype == dtype:
                weight: Any = self.lora_B[name].weight  # (O, R)
                result.addmm_(low * self.scaling[name], weight.to(dtype).T)
            else:  # a LoRA in float32 on a layer in half precision, without autocast: as peft
                result = result + self.lora_B[name](low) * self.scaling[name]
        return result.to(dtype).view(*x.shape[:-1], result.shape[-1])

    def _are_plain(self, names: list[str]) -> bool:
        """Whether these adapters are two matrices each, with dropout in the first."""
        return all(
            name not in self.lora_variant
            and isinstance(self.lora_A[name], DroppedLinear)
            and self.lora_B[name].bias is None
            for name in names
        )
