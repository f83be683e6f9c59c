"""The Trainer's strategies that a fit is offered by a short name."""

from __future__ import annotations

from datetime import timedelta

import lightning as L
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch.distributed.constants import default_pg_timeout
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from safety_lightning.errors import UserError
from safety_lightning.lightning_internals import spread_data


class FSDP2Strategy(ModelParallelStrategy):
    """FSDP2 over all processes: weights, gradients and moments are shared out by rows, data by processes.

    Args:
        save_distributed_checkpoint: Each process writes its part of a checkpoint, into one folder; else the first
            process gathers and writes the whole.
        process_group_backend: The backend of `torch.distributed`; None takes that of the device.
        timeout: How long a process waits for the others.
    """

    def __init__(
        self,
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    def setup_environment(self) -> None:
        """Sizes the mesh by the processes there are."""
        spread_data(self)
        super().setup_environment()


def count_shards(trainer: L.Trainer) -> int:
    """Returns how many processes share the weights out by FSDP2: 1 where each holds them whole.

    Raises:
        UserError: If tensor parallelism is asked for.
    """
    if not isinstance(trainer.strategy, ModelParallelStrategy):
        return 1
    mesh = trainer.strategy.device_mesh
    if mesh["tensor_parallel"].size() > 1:
        raise UserError(
            f"trainer.strategy must share weights out by rows (fsdp2), got {mesh['tensor_parallel'].size()} processes "
            "of tensor parallelism"
        )
    return int(mesh["data_parallel"].size())


def shard_model(model: PreTrainedModel, trainer: L.Trainer) -> None:
    """Shards a model that every process has loaded whole, in place; leaves it under a strategy that shards nothing.

    An adapter is put into whole weights: transformers shards as it loads, and would leave the factors out.
    """
    if isinstance(trainer.strategy, ModelParallelStrategy) and count_shards(trainer) > 1:
        layers = getattr(model.base_model, "layers", None) or getattr(model.base_model, "h", [])
        for block in [*layers, model]:
            fully_shard(block, mesh=trainer.strategy.device_mesh["data_parallel"], reshard_after_forward=True)


def register_strategies() -> None:
    """Makes the short names known to the Trainer."""
    if "fsdp2" not in StrategyRegistry:
        StrategyRegistry.register("fsdp2", FSDP2Strategy, description="FSDP2 over all processes")
