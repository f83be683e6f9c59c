"""What Lightning offers under private names alone: each of them stands here, and its test says when it is gone."""

from __future__ import annotations

from typing import Any

from safety_lightning.errors import UserError


def check_sampler(trainer: Any) -> None:
    """Checks that a Trainer of several processes does not replace samplers by its own.

    Raises:
        UserError: If it does: then each process would divide data that are divided already.
    """
    if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
        raise UserError("use_distributed_sampler of the Trainer must be false, got true")


def settle_finished_epoch(trainer: Any) -> None:
    """Lets a run with ``max_steps`` resume from the end of an epoch as one with ``max_epochs`` does.

    Lightning 2.6 takes such a run for one stopped within the epoch: after the first batch of the next epoch it would
    count that epoch as finished too (Lightning-AI/pytorch-lightning issue 19617). To be called in
    ``train_dataloader``, which Lightning asks for after it has restored its counts and before it uses them.
    """
    loop = trainer.fit_loop
    progress = loop.epoch_progress.current
    if loop.restarting and progress.ready == progress.started == progress.processed:
        loop._restarting = False  # the property's setter would set it again
        loop.epoch_loop.restarting = False


def spread_data(strategy: Any) -> None:
    """Has a `ModelParallelStrategy` take all processes for parallel data, however many there are.

    Its "auto" is the number of nodes. To be called in `setup_environment`, before the mesh is made.
    """
    strategy._data_parallel_size = strategy.num_nodes * strategy.num_processes


def logs_now(trainer: Any) -> bool:
    """Whether a Trainer logs the training step that is under way."""
    return bool(trainer.fast_dev_run or trainer._logger_connector.should_update_logs)
