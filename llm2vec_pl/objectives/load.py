"""How an encoder is loaded for training: as the trainer's strategy and precision require."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import HalfPrecision
from lightning.pytorch.strategies import StrategyRegistry

from llm2vec_pl.distributed import equal_on_all_ranks
from llm2vec_pl.distributed.fsdp2 import FSDP2
from llm2vec_pl.encoder import INT8_DYNAMIC, Encoder
from llm2vec_pl.errors import UserError

# Whoever imports an objective can train it with `strategy="fsdp2"`.
FSDP2.register_strategies(StrategyRegistry)


def load_encoder(module: LightningModule, encoder: Encoder) -> None:
    """Loads an encoder, once, as the trainer's strategy and precision require.

    Args:
        module: the module that trains it; its own trained weights become equal on all ranks.
        encoder: the encoder; nothing is done if it is loaded already.

    Raises:
        UserError: if these weights cannot be trained under this strategy or precision, and as
            `Encoder.load`.
    """
    trainer = module._trainer
    if encoder.is_loaded or trainer is None:
        encoder.load()
        return
    precision = trainer.precision_plugin
    if isinstance(precision, HalfPrecision):
        encoder.dtype = "bfloat16" if precision.precision == "bf16-true" else "float16"
    if encoder.quantization == INT8_DYNAMIC and trainer.training:
        raise UserError(
            '`quantization="int8_dynamic"` is for encoding only. To train a LoRA on quantized '
            'weights, set `quantization="nf4"` or `quantization="int8"`, and `lora_rank` above 0.'
        )
    trains = trainer.training and not getattr(module, "is_frozen", False)
    if encoder.quantization and not encoder.lora_rank and trains:
        raise UserError(
            f"`quantization={encoder.quantization!r}` keeps the weights as they are. Train a LoRA "
            "on them: set `lora_rank` above 0."
        )
    mesh = module.device_mesh
    device = trainer.strategy.root_device
    if mesh is None:
        encoder.load(device=device)
        return
    if mesh["tensor_parallel"].size() > 1:
        raise UserError(
            "Decoders are sharded by data parallelism only, but this strategy has a tensor "
            f"parallel size of {mesh['tensor_parallel'].size()}. "
            'Set `Trainer(strategy="fsdp2")`.'
        )
    if getattr(precision, "scaler", None) is not None:
        raise UserError(
            '`Trainer(precision="16-mixed")` scales the loss, and sharded ranks would not agree on '
            'which steps to skip. Set `Trainer(precision="bf16-mixed")` or '
            '`Trainer(strategy="ddp")`.'
        )
    encoder.load(mesh["data_parallel"], device)
    equal_on_all_ranks(module.parameters(), device)
