"""How an encoder is loaded for a training: as the trainer's strategy and precision want it."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import HalfPrecision
from lightning.pytorch.strategies import StrategyRegistry

from llm2vec_pl.distributed import equal_on_all_ranks
from llm2vec_pl.distributed.fsdp2 import FSDP2
from llm2vec_pl.encoder import INT8_DYNAMIC, Encoder
from llm2vec_pl.errors import UserError

# `strategy="fsdp2"` is known wherever there is an objective to train with it.
FSDP2.register_strategies(StrategyRegistry)


def load_encoder(module: LightningModule, encoder: Encoder) -> None:
    """Loads an encoder as the trainer's strategy and precision want it; once.

    Args:
        module: that it belongs to; its own trained weights become equal on all ranks.
        encoder: not loaded yet, or nothing is done.

    Raises:
        UserError: for tensor parallelism, and as `Encoder.load`.
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
            "--encoder.quantization int8_dynamic is for encoding. Train a LoRA on weights in "
            "--encoder.quantization nf4 or int8, with --encoder.lora_rank above 0."
        )
    if encoder.quantization and not encoder.lora_rank and trainer.training:
        raise UserError(
            f"--encoder.quantization {encoder.quantization} keeps the weights as they are: train a "
            "LoRA on them, with --encoder.lora_rank above 0."
        )
    mesh = module.device_mesh
    device = trainer.strategy.root_device
    if mesh is None:
        encoder.load(device=device)
        return
    if mesh["tensor_parallel"].size() > 1:
        raise UserError(
            "--trainer.strategy: decoders are sharded by data parallelism only, but this strategy "
            f"has a tensor parallel size of {mesh['tensor_parallel'].size()}. "
            "Set --trainer.strategy fsdp2."
        )
    if getattr(precision, "scaler", None) is not None:
        raise UserError(
            "--trainer.precision 16-mixed scales the loss, and sharded ranks would not agree on "
            "which steps to skip. Set --trainer.precision bf16-mixed, or --trainer.strategy ddp."
        )
    encoder.load(mesh["data_parallel"], device)
    equal_on_all_ranks(module.parameters(), device)
