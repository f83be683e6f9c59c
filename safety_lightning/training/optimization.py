"""The learning rate's schedule, and a trial of the optimizer before anything is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from transformers import (
    get_constant_schedule,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from safety_lightning.errors import UserError

Schedule = Literal["cosine", "linear", "constant_with_warmup", "constant"]


def make_schedule(
    schedule: Schedule, optimizer: torch.optim.Optimizer, num_steps: int, *, warmup_share: float
) -> LRScheduler:
    """Makes a schedule in which every step does something.

    Paper: the release's warm-up has a learning rate of 0 in its first step; here it begins one step later, and ends at
    its peak.

    Args:
        schedule: How the learning rate moves after the warm-up.
        optimizer: The optimizer.
        num_steps: Optimizer steps of the whole run.
        warmup_share: Share of the steps, rounded up, in which the learning rate rises to its peak.
    """
    num_warmup = math.ceil(warmup_share * num_steps)
    shift = min(num_warmup, 1)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])  # which a scheduler wants that does not begin at its step 0
    place = {"num_warmup_steps": num_warmup, "last_epoch": shift - 1}
    if schedule == "cosine":
        return get_cosine_schedule_with_warmup(optimizer, num_training_steps=num_steps + shift, **place)
    if schedule == "linear":
        return get_linear_schedule_with_warmup(optimizer, num_training_steps=num_steps + shift, **place)
    if schedule == "constant_with_warmup":
        return get_constant_schedule_with_warmup(optimizer, **place)
    return get_constant_schedule(optimizer)


def choose_fused(optimizer: torch.optim.Optimizer, *, device_type: str = "cuda") -> None:
    """Has torch's Adam and AdamW step in one kernel where all weights are on a GPU and nothing else was asked for.

    Args:
        optimizer: The optimizer, changed in place before its first step.
        device_type: The kind of device on which it does.
    """
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
        return
    for group in optimizer.param_groups:
        is_open = group["fused"] is None and not (group["foreach"] or group["differentiable"] or group["capturable"])
        if is_open and all(one.device.type == device_type and one.is_floating_point() for one in group["params"]):
            group["fused"] = True


def check_optimizer(
    make_optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer],
    make_scheduler: Callable[[torch.optim.Optimizer], Any] | None,
) -> None:
    """Makes an optimizer and its scheduler on a trial matrix and vector, and takes a step without gradients.

    Raises:
        UserError: If they refuse their settings, or a number among the settings is NaN or infinite.
    """
    trial = [torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(2))]
    try:
        optimizer = make_optimizer(iter(trial))
        scheduler = make_scheduler(optimizer) if make_scheduler is not None else None
        optimizer.step()
        if scheduler is not None and not isinstance(scheduler, ReduceLROnPlateau):  # which wants a metric
            scheduler.step()
    except (ValueError, TypeError, RuntimeError, ArithmeticError, ImportError) as error:
        raise UserError(f"model.optimizer and model.lr_scheduler must take their settings, got: {error}") from error
    for group in optimizer.param_groups:
        for name, value in group.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"model.optimizer must have finite settings, got {name} {value}")


def check_accumulation(trainer: L.Trainer) -> None:
    """Raises UserError if a callback changes the accumulation that the strategy or the Trainer has been told."""
    if any(isinstance(one, GradientAccumulationScheduler) for one in trainer.callbacks):  # type: ignore[attr-defined]
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            raise UserError(
                "trainer.callbacks must hold no GradientAccumulationScheduler under ZeRO, whose accumulation cannot "
                "change: set trainer.accumulate_grad_batches"
            )
        if trainer.accumulate_grad_batches != 1:
            raise UserError(
                "trainer.accumulate_grad_batches must be 1 beside a GradientAccumulationScheduler, got "
                f"{trainer.accumulate_grad_batches}"
            )


def check_steps_taken(trainer: L.Trainer) -> None:
    """Checks the options of a Trainer that it takes unseen, and that would train nothing, or away from the data.

    Raises:
        UserError: If a number of steps is 0 or the bound of gradients is negative.
    """
    for name in ("max_steps", "max_epochs", "limit_train_batches"):
        if getattr(trainer, name) == 0:
            raise UserError(f"trainer.{name} must not be 0: nothing would be trained")
    check_accumulation(trainer)
    if trainer.accumulate_grad_batches < 1:
        raise UserError(f"trainer.accumulate_grad_batches must be at least 1, got {trainer.accumulate_grad_batches}")
    if trainer.gradient_clip_val is not None and not trainer.gradient_clip_val >= 0:
        raise UserError(f"trainer.gradient_clip_val must be at least 0, got {trainer.gradient_clip_val}")
