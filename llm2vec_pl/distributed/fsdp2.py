"""`--trainer.strategy fsdp2`: Lightning's ModelParallelStrategy with the right defaults for us."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.precision import HalfPrecision
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from llm2vec_pl.distributed.sharded_checkpoint import is_shards, load_shards, save_shards
from llm2vec_pl.distributed.sharding import equal_on_all_ranks, gathered_state
from llm2vec_pl.encoder.encoder import Encoder
from llm2vec_pl.encoder.int8_dynamic import INT8_DYNAMIC
from llm2vec_pl.errors import UserError
from llm2vec_pl.objectives.optimizer import IMPLEMENTATION


class FSDP2(ModelParallelStrategy):
    """Shards the decoder over all devices (data parallel), without tensor parallelism.

    Checkpoints hold trained weights only, and optimizer states by the names of parameters: one
    that DDP or a single device wrote opens here, and the other way round.

    Args:
        save_distributed_checkpoint: write a folder with a file per rank, which gathers nothing;
            otherwise one file.
        process_group_backend: of torch.distributed; the device's own if null.
        timeout: of a collective operation.
    """

    strategy_name = "fsdp2"

    def __init__(
        self,
        save_distributed_checkpoint: bool = False,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(
            data_parallel_size=1,  # until the number of processes is known
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    @classmethod
    def register_strategies(cls, strategy_registry: Any) -> None:
        """Adds the short name to Lightning's registry."""
        if cls.strategy_name not in strategy_registry:
            strategy_registry.register(cls.strategy_name, cls, description=cls.__doc__)

    def setup_environment(self) -> None:
        """All processes hold a share each."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Gathers weights in evaluation without inference mode, whose tensors cannot be trained."""
        for loop in (
            trainer.fit_loop.epoch_loop.val_loop,
            trainer.validate_loop,
            trainer.test_loop,
            trainer.predict_loop,
        ):
            loop.inference_mode = False
        super().setup(trainer)

    # Checkpoints: what is written ---------------------------------------------------------------

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The trained weights: whole and on rank 0 only, or this rank's share for a folder."""
        assert self.model is not None
        if not self._save_distributed_checkpoint:
            return gathered_state(self.model, trained_only=True)  # type: ignore[no-any-return]
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state by the names of parameters; every rank must ask for it."""
        assert self.model is not None
        optimizer = _plain(optimizer)
        names = _names(self.model)
        groups = [
            {**group, "params": [names[p] for p in group["params"]]}
            for group in optimizer.param_groups
        ]
        state = {names[p]: self._own_or_whole(values) for p, values in optimizer.state.items()}
        return {"state": state, "param_groups": groups}

    def _own_or_whole(self, values: dict[str, Any]) -> dict[str, Any]:
        if self._save_distributed_checkpoint:
            return dict(values)
        whole = {}
        for key, value in values.items():
            value = value.full_tensor() if isinstance(value, DTensor) else value
            if self.global_rank == 0:
                whole[key] = value.cpu() if isinstance(value, Tensor) else value
        return whole

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Writes one file by the checkpoint plugin, or a folder of shards."""
        path = Path(self.broadcast(filepath))
        if self._save_distributed_checkpoint:
            save_shards(checkpoint, path, self.global_rank)
            return
        Strategy.save_checkpoint(self, checkpoint, path, storage_options)

    # Checkpoints: what is read ------------------------------------------------------------------

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning hands the optimizer states back to `load_optimizer_state_dict`."""
        return True

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """The content of a file, or of a folder with as much as this rank holds."""
        path = Path(self.broadcast(checkpoint_path))
        if not is_shards(path):
            return self.checkpoint_io.load_checkpoint(
                path, map_location="cpu", weights_only=weights_only
            )
        assert self.model is not None
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        return load_shards(path, trained, weights_only)

    @torch.no_grad()
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Copies a checkpoint's weights into this rank's."""
        assert self.model is not None
        own = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        for name, value in checkpoint["state_dict"].items():
            if name in own:
                own[name].copy_(_like(value, own[name]))
            elif strict:
                raise KeyError(f"The checkpoint has {name}, which the model has not.")

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Gives the optimizers their states back, those of parameters that are there."""
        assert self.model is not None
        parameters = {name: p for p, name in _names(self.model).items()}
        for optimizer, loaded in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            _restore(_plain(optimizer), loaded, parameters)


def _restore(optimizer: Optimizer, loaded: dict[str, Any], parameters: dict[str, Tensor]) -> None:
    names = {p: name for name, p in parameters.items()}
    given = {name: group for group in loaded["param_groups"] for name in group["params"]}
    for group in optimizer.param_groups:
        settings = given.get(names[group["params"][0]], {})
        own = ("params", *IMPLEMENTATION)
        group.update({key: value for key, value in settings.items() if key not in own})
        for p in group["params"]:
            values = loaded["state"].get(names[p], {})
            if values:
                optimizer.state[p] = {key: _like(value, p) for key, value in values.items()}
            if "step" in values:  # a fused optimizer counts on the device, another on the CPU
                device = p.device if group.get("fused") else "cpu"
                optimizer.state[p]["step"] = torch.as_tensor(values["step"]).to(device)


def _like(value: Any, p: Tensor) -> Any:
    """A whole value as the shards of a parameter's."""
    if not isinstance(value, Tensor) or value.shape != p.shape:
        return value
    if isinstance(p, DTensor) and not isinstance(value, DTensor):
        # Each rank has read the whole: nothing is sent.
        return distribute_tensor(
            value.to(p.device), p.device_mesh, p.placements, src_data_rank=None
        )
    return value.to(p.device)


def _names(module: torch.nn.Module) -> dict[Any, str]:
    return {p: name for name, p in module.named_parameters()}


def _plain(optimizer: Any) -> Optimizer:
    """Without Lightning's wrapper."""
    inner: Optimizer = getattr(optimizer, "_optimizer", optimizer)
    return inner


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


FSDP2.register_strategies(StrategyRegistry)
