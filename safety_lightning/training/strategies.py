"""The Trainer's strategies that a fit is offered by a short name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.constants import default_pg_timeout
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from safety_lightning.errors import UserError
from safety_lightning.files import atomic_path
from safety_lightning.projection import Locate, locate
from safety_lightning.system.lightning_internals import spread_data
from safety_lightning.training.zero import ZeroMasters, check_pickles

META_FILE = "meta.pt"  # as Lightning names it under FSDP2


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


class ZeroStrategy(DeepSpeedStrategy):
    """DeepSpeed's ZeRO, on GPUs and also on CPUs, where DeepSpeed runs as well.

    `CausalLMModule` alone is trained: it clips gradients in DeepSpeed's place, which would clip them before they are
    divided by the step's tokens, and it tells DeepSpeed of the last step of an epoch. Another module would be trained
    without either.

    Args:
        stage: 1 shares out the optimizer's moments and float32 weights, 2 gradients too, 3 weights too.
        offload_optimizer: Keep moments and float32 weights in the memory of the CPU.
    """

    def __init__(self, stage: int = 2, offload_optimizer: bool = False) -> None:
        super().__init__(stage=stage, offload_optimizer=offload_optimizer, logging_batch_size_per_gpu=1)
        assert isinstance(self.config, dict)
        self.config["gradient_clipping"] = 0.0

    @property
    def is_on_cpu(self) -> bool:
        """Whether there are no GPUs to work on."""
        return isinstance(self.accelerator, CPUAccelerator)

    @property
    def root_device(self) -> torch.device:
        """This process's device; DeepSpeed wants a number in it."""
        return torch.device("cpu", self.local_rank) if self.is_on_cpu else super().root_device

    @property
    def masters(self) -> ZeroMasters:
        """The float32 weights of the optimizer that was set up."""
        return ZeroMasters(self.optimizers[0])

    @property
    def handles_gradient_accumulation(self) -> bool:
        """Whether Lightning leaves it to DeepSpeed when to step; at the end of an epoch both step."""
        return self.lightning_module is None or not self.lightning_module.trainer.is_last_batch

    def setup_environment(self) -> None:
        """Begins the processes; Lightning's own refuses CPUs.

        Raises:
            UserError: If another module than `CausalLMModule` is to be trained.
        """
        self._check_module()
        if not self.is_on_cpu:
            super().setup_environment()
            return
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # or a kernel is compiled at the first start
        DDPStrategy.setup_environment(self)

    def _check_module(self) -> None:
        from safety_lightning.training.module import CausalLMModule  # which is made of what stands here

        module = self.lightning_module
        if module is None or module.trainer.state.fn != TrainerFn.FITTING or isinstance(module, CausalLMModule):
            return
        raise UserError(
            "trainer.strategy must be fsdp2 or ddp for a LightningModule of your own, got ZeRO, under which gradients "
            f"of {type(module).__name__} would not be clipped, and would be lost at the end of an epoch: only "
            "CausalLMModule is trained under zero1, zero2 and zero3"
        )

    def setup_distributed(self) -> None:
        """Joins the processes."""
        if not self.is_on_cpu:
            super().setup_distributed()
            return
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Writes a checkpoint's folder, and last its step into ``meta.pt``, by which it is known to be whole."""
        path = Path(self.broadcast(filepath))
        if self.is_global_zero:
            (path / META_FILE).unlink(missing_ok=True)
        self.barrier()
        step = checkpoint["global_step"]
        super().save_checkpoint(checkpoint, path, storage_options)
        self.barrier()
        if self.is_global_zero:
            with atomic_path(path / META_FILE) as partial:
                torch.save({"global_step": step}, partial)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads a checkpoint's folder, which DeepSpeed unpickles: what is in it is looked at before."""
        check_pickles(Path(checkpoint_path))
        return super().load_checkpoint(checkpoint_path, weights_only)

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Does nothing: transformers shares weights out as it loads them."""
        self._init_config_if_needed()
        yield


def find_masters(trainer: L.Trainer) -> ZeroMasters | None:
    """Returns the masters of a Trainer's model; None without ZeRO."""
    return trainer.strategy.masters if isinstance(trainer.strategy, ZeroStrategy) else None


def announce_step(trainer: L.Trainer, batch_idx: int) -> None:
    """Tells ZeRO before the forward pass whether the optimizer steps after it, at the end of an epoch too."""
    if isinstance(trainer.strategy, ZeroStrategy):
        is_full = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        trainer.strategy.deepspeed_engine.set_gradient_accumulation_boundary(is_full or trainer.is_last_batch)


def steps_now(trainer: L.Trainer) -> bool:
    """Whether the optimizer steps after this micro-batch: DeepSpeed is asked each time, others when they step."""
    strategy = trainer.strategy
    return not isinstance(strategy, ZeroStrategy) or strategy.deepspeed_engine.is_gradient_accumulation_boundary()


def find_locate(trainer: L.Trainer) -> Locate:
    """Returns what finds the numbers of a parameter that this process holds: masters under ZeRO."""
    masters = find_masters(trainer)
    return locate if masters is None else masters.locate


def find_zero3_config(trainer: L.Trainer) -> dict[str, Any] | None:
    """Returns the configuration by which transformers shares weights out for ZeRO-3; None for other strategies."""
    strategy = trainer.strategy
    return strategy.config if isinstance(strategy, ZeroStrategy) and strategy.zero_stage_3 else None


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


def shares_weights(trainer: L.Trainer) -> bool:
    """Whether processes must run a model together, for none has all of its weights."""
    return isinstance(trainer.strategy, ModelParallelStrategy) or find_zero3_config(trainer) is not None


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
        for stage in (1, 2, 3):
            StrategyRegistry.register(f"zero{stage}", ZeroStrategy, description=f"ZeRO-{stage}", stage=stage)
