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


def rewind(fit_loop: dict[str, Any], num_batches: int) -> None:
    """Takes back the last batches of an epoch from what a checkpoint says of a fit.

    Args:
        fit_loop: What a checkpoint holds under ``loops`` and ``fit_loop``; changed in place.
        num_batches: How many batches, of an optimizer step that has not been taken.
    """
    if num_batches == 0:
        return
    progress = fit_loop["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        for name in counts:
            counts[name] -= num_batches
    progress["is_last_batch"] = False
    current = progress["current"]
    if current["completed"] == current["processed"] - 1:  # Lightning will count the step before once more
        fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
    for loader in fit_loop["state_dict"].get("combined_loader", []):
        if "num_yielded" in loader:
            loader["num_yielded"] -= num_batches


def spread_data(strategy: Any) -> None:
    """Has a `ModelParallelStrategy` take all processes for parallel data, however many there are.

    Its "auto" is the number of nodes. To be called in `setup_environment`, before the mesh is made.
    """
    strategy._data_parallel_size = strategy.num_nodes * strategy.num_processes


def logs_now(trainer: Any) -> bool:
    """Whether a Trainer logs the training step that is under way."""
    return bool(trainer.fast_dev_run or trainer._logger_connector.should_update_logs)
