"""Reads what decides a fit's cost from its options, before anything is made of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from safety_lightning.errors import UserError
from safety_lightning.training.callbacks.project_update import ProjectUpdate
from safety_lightning.training.module import CausalLMModule
from safety_lightning.training.planning.settings import FitSettings, Sharing

_CLASSES: dict[str, Sharing] = {
    "FSDP2Strategy": "fsdp2",
    "ModelParallelStrategy": "fsdp2",
    "DDPStrategy": "ddp",
    "SingleDeviceStrategy": "single",
}


def read_options(config: Any, module: CausalLMModule, projection: ProjectUpdate) -> FitSettings:
    """Returns the settings of a parsed fit.

    Args:
        config: The options of `fit`, as parsed.
        module: What was made of ``model``; nothing is loaded.
        projection: What was made of ``projection``.

    Raises:
        UserError: If memory is not told for the strategy.
    """
    trainer = config.trainer
    on_cpu = _is_cpu(trainer)
    num_devices = count_devices(trainer.devices, on_cpu=on_cpu) * trainer.num_nodes
    return FitSettings(
        model=module.reference,
        make_optimizer=module.make_optimizer,
        lora=module.lora,
        gradient_checkpointing=module.gradient_checkpointing,
        precision=str(trainer.precision),
        sharing=find_sharing(trainer.strategy, num_devices),
        num_devices=num_devices,
        on_cpu=on_cpu,
        accumulate=trainer.accumulate_grad_batches,
        max_steps=trainer.max_steps,
        max_epochs=trainer.max_epochs,
        subspace=projection.subspace,
        when=projection.when,
        keep=projection.keep,
        is_monitored=config.monitor.every_n_steps > 0,
        num_saved=2 if config.save.keep_unprojected and projection.when == "end" else 1,
        share_of_epoch=1.0 if trainer.limit_train_batches is None else trainer.limit_train_batches,
        uncounted=tuple(list_uncounted(config)),
    )


def list_uncounted(config: Any) -> Iterator[str]:
    """Lists what options ask for that a plan does not count."""
    for group in ("penalty", "monitor"):
        if config[group].subspace is not None:
            yield f"reference and bases of {group}.subspace"
    if config.save.merge:
        yield "the merged model on the disk"
    if config.compare.tasks or config.behaviour.every_n_steps > 0:
        yield "measuring (compare, behaviour)"


def find_sharing(strategy: Any, num_devices: int) -> Sharing:
    """Returns the strategy that an option of the Trainer means.

    Raises:
        UserError: If it is another one.
    """
    name = strategy if isinstance(strategy, str) else str(getattr(strategy, "class_path", type(strategy).__name__))
    if name == "auto":
        return "ddp" if num_devices > 1 else "single"
    if name in ("zero1", "zero2", "zero3"):
        found: Sharing = name  # type: ignore[assignment]
        return found
    last = name.rpartition(".")[2]
    if last == "ZeroStrategy":
        stage = getattr(getattr(strategy, "init_args", strategy), "stage", 2)
        return find_sharing(f"zero{stage}", num_devices)
    known: Sharing | None = _CLASSES.get(last) or ("fsdp2" if name == "fsdp2" else None)
    if known is None and name.startswith("ddp"):
        known = "ddp"
    if known is None:
        raise UserError(f"dry_run must have a trainer.strategy of auto, ddp, fsdp2, zero1, zero2 or zero3, got {name}")
    return known


def count_devices(devices: Any, *, on_cpu: bool) -> int:
    """Counts the devices of a node that an option of the Trainer means."""
    if isinstance(devices, list):
        return len(devices)
    text = str(devices)
    if "," in text:
        return len([one for one in text.split(",") if one.strip()])
    if text in ("auto", "-1"):
        return 1 if on_cpu else max(1, torch.cuda.device_count())
    return int(text)


def _is_cpu(trainer: Any) -> bool:
    """Whether the fit runs on CPUs: told so, or left open on a machine that has nothing else."""
    is_open = trainer.accelerator == "auto" and str(trainer.devices) in ("auto", "1")
    return trainer.accelerator == "cpu" or (is_open and not torch.cuda.is_available())
