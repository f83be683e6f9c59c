"""The Lightning callback that shows what the running update is made of."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from safety_lightning.errors import UserError
from safety_lightning.projection import (
    Component,
    SubspaceSpec,
    UpdateMeasure,
    UpdateProjector,
    prepare_subspace,
    sum_chance,
    sum_energy,
    sum_leak,
)
from safety_lightning.training.callbacks.project_update import ProjectUpdate, find_model
from safety_lightning.training.figures import draw_layers
from safety_lightning.training.increments import IncrementMeter
from safety_lightning.training.strategies import find_locate


class MonitorUpdate(L.Callback):
    """Logs energy inside the subspace beside chance, the update's norm, its leak and the stuck share.

    Without a projection during training, ``update/energy_inside`` and ``update/chance`` are of the whole update since
    the reference. Under `ProjectUpdate` that update is projected already, and its energies would say nothing of what
    is learned: ``increment/energy_inside``, ``increment/chance`` and ``increment/norm`` take their place. They are of
    the increment since the last projection, as the optimizer left it: what it wanted. ``update/norm``,
    ``update/leak`` and ``update/stuck_share`` are of the whole update after the step's projection. The stuck share is
    the share of weights that have not moved since the start: bfloat16 weights at a small learning rate train almost
    nothing, and this tells. Each scalar is logged for the whole model and by kind of module
    (``update/norm/q_proj``). Without a subspace there is no reference to measure from, and nothing is logged.

    Args:
        every_n_steps: Optimizer steps from one measurement to the next; 0 switches the monitor off.
        figure_every_n_steps: Optimizer steps from one figure by layer to the next; 0 draws none.
        subspace: Which subspace; None takes that of the `ProjectUpdate` callback. One of its own has no leak: nothing
            is projected onto it.

    Raises:
        UserError: If a number of steps is negative.
    """

    def __init__(
        self, every_n_steps: int = 10, figure_every_n_steps: int = 100, subspace: SubspaceSpec | None = None
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("figure_every_n_steps", figure_every_n_steps)):
            if value < 0:
                raise UserError(f"{name} must not be negative, got {value}")
        self.every_n_steps = every_n_steps
        self.figure_every_n_steps = figure_every_n_steps
        self.subspace = subspace
        self._projector: UpdateProjector | None = None
        self._component: Component | None = None  # that is kept
        self._meter: IncrementMeter | None = None  # of the projection that is monitored
        self._last_step = 0
        self._last_increment = 0

    def prepare(self, device: torch.device | str = "cpu") -> None:
        """Spans a subspace of its own where one was given, once."""
        if self.subspace is not None and self._projector is None:
            self._projector = UpdateProjector(prepare_subspace(self.subspace, device=device), component="parallel")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Spans a subspace of its own where one was given."""
        if stage == "fit" and self.every_n_steps > 0:
            self.prepare(trainer.strategy.root_device)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Binds its own projector, or takes that of `ProjectUpdate`, whose increments it has measured."""
        self._last_step = trainer.global_step
        if self._projector is not None:
            self._projector.bind(find_model(pl_module), find=find_locate(trainer))
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ProjectUpdate) and callback.hook is not None:
                if self._projector is None:
                    self._projector, self._component = callback.projector, callback.component
                if callback.when == "every_n_steps":
                    assert self._projector is not None
                    self._meter = callback.hook.watch(self._projector, self._is_due)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Measures on the schedule, once per optimizer step whatever the accumulation."""
        step = trainer.global_step
        if self._projector is None or step == self._last_step:
            return
        self._last_step = step
        update = self._projector.measure() if self._is_due(step) else None
        subject, energies = ("update", update) if self._meter is None else ("increment", self._take_increment())
        scalars = summarise_energies(energies or [], subject) | summarise_update(update or [], self._component)
        for logger in trainer.loggers if scalars else []:
            logger.log_metrics(scalars, step=step)
            if energies and self._draws(step) and isinstance(logger, TensorBoardLogger):
                figure = draw_layers(energies, subject=subject)
                logger.experiment.add_figure(f"{subject}/by_layer", figure, global_step=step)

    def _take_increment(self) -> list[UpdateMeasure] | None:
        """Returns the increment of the optimizer's last step; None if that step was not measured."""
        measured = self._meter.measured if self._meter is not None else None
        if measured is None or measured[0] == self._last_increment:
            return None
        self._last_increment = measured[0]
        return measured[1]

    def _is_due(self, step: int) -> bool:
        return self.every_n_steps > 0 and (step % self.every_n_steps == 0 or self._draws(step))

    def _draws(self, step: int) -> bool:
        return self.figure_every_n_steps > 0 and step % self.figure_every_n_steps == 0


def summarise_energies(measures: Sequence[UpdateMeasure], subject: str) -> dict[str, float]:
    """Returns energy inside the subspace, chance and norm, for the whole model and by kind of module.

    Args:
        measures: The measures of each matrix.
        subject: What they are of, ``update`` or ``increment``; the names of the scalars begin with it.
    """
    scalars = {}
    for suffix, group in _group(measures):
        scalars[f"{subject}/energy_inside{suffix}"] = sum_energy(group, "parallel")
        scalars[f"{subject}/chance{suffix}"] = sum_chance(group, "parallel")
        scalars[f"{subject}/norm{suffix}"] = math.sqrt(sum(measure.total for measure in group))
    return {name: value for name, value in scalars.items() if not math.isnan(value)}


def summarise_update(measures: Sequence[UpdateMeasure], component: Component | None) -> dict[str, float]:
    """Returns the update's norm, its leak from the component that is kept, if one is, and the stuck share."""
    scalars = {}
    for suffix, group in _group(measures):
        scalars[f"update/norm{suffix}"] = math.sqrt(sum(measure.total for measure in group))
        scalars[f"update/stuck_share{suffix}"] = sum(m.num_stuck for m in group) / sum(m.num_weights for m in group)
        if component is not None:
            scalars[f"update/leak{suffix}"] = sum_leak(group, component)
    return scalars


def _group(measures: Sequence[UpdateMeasure]) -> Iterable[tuple[str, Sequence[UpdateMeasure]]]:
    """Returns all measures, and those of each kind of module with the suffix of its scalars' names."""
    by_kind: dict[str, list[UpdateMeasure]] = defaultdict(list)
    for measure in measures:
        by_kind[""].append(measure)
        by_kind[f"/{measure.slot.kind}"].append(measure)
    return by_kind.items()
