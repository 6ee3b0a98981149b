"""`--trainer.strategy fsdp2`: Lightning's ModelParallelStrategy with our defaults."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.strategy import Strategy
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from llm2vec_pl.distributed.optimizer_settings import resumed_settings
from llm2vec_pl.distributed.sharded_checkpoint import is_shards, load_shards, save_shards
from llm2vec_pl.distributed.sharding import gathered_state


class FSDP2(ModelParallelStrategy):
    """Shards the decoder over all devices (data parallel), without tensor parallelism.

    Checkpoints hold only the trained weights, and optimizer states by the names of parameters. A
    checkpoint that DDP or a single device wrote opens here, and the other way round.

    Args:
        save_distributed_checkpoint: write a folder with one file per rank, which gathers nothing;
            otherwise a single file.
        process_group_backend: backend of torch.distributed; the device's own if null.
        timeout: of collective operations.
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
        """Gives each process a share of the weights."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Turns off inference mode for evaluation: weights gathered in it could not be trained."""
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
        """The trained weights: whole, on rank 0 only; or this rank's share, for a folder."""
        assert self.model is not None
        if not self._save_distributed_checkpoint:
            return gathered_state(self.model, trained_only=True)  # type: ignore[no-any-return]
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's state by the names of parameters; every rank must call this."""
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
        """The content of a file, or this rank's share of a folder."""
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
                raise KeyError(
                    f"The checkpoint has {name}, but the model does not. Resume with the arguments "
                    "of the run that wrote it."
                )

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Restores the optimizers' states, for the parameters that exist."""
        assert self.model is not None
        parameters = {name: p for p, name in _names(self.model).items()}
        for optimizer, loaded in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            _restore(_plain(optimizer), loaded, parameters)


def _restore(optimizer: Optimizer, loaded: dict[str, Any], parameters: dict[str, Tensor]) -> None:
    names = {p: name for name, p in parameters.items()}
    given = {name: group for group in loaded["param_groups"] for name in group["params"]}
    for group in optimizer.param_groups:
        group.update(resumed_settings(given.get(names[group["params"][0]], {})))
        for p in group["params"]:
            values = loaded["state"].get(names[p], {})
            if values:
                optimizer.state[p] = {key: _like(value, p) for key, value in values.items()}
            if "step" in values:  # a fused optimizer counts on the device, others on the CPU
                device = p.device if group.get("fused") else "cpu"
                optimizer.state[p]["step"] = torch.as_tensor(values["step"]).to(device)


def _like(value: Any, p: Tensor) -> Any:
    """A whole value, sharded like the parameter if it has the same shape."""
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
    """The optimizer without Lightning's wrapper."""
    inner: Optimizer = getattr(optimizer, "_optimizer", optimizer)
    return inner
