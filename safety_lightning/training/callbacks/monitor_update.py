"""The Lightning callback that shows what the running update is made of."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
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
from safety_lightning.training.hook import ProjectionHook


class MonitorUpdate(L.Callback):
    """Logs the update's energy inside the subspace beside chance, its norm, its leak and the stuck share.

    The stuck share is the share of weights that have not moved since the start: bfloat16 weights at a small learning
    rate train almost nothing, and this tells. Energies are those of the update as the optimizer left it, before the
    projection of that step, which would make them trivial; norm, leak and stuck share are those after it. Each scalar
    is logged for the whole model and by kind of module (``update/energy_inside/q_proj``). Without a subspace there is
    no reference to measure from, and nothing is logged.

    Args:
        every_n_steps: Optimizer steps from one measurement to the next; 0 switches the monitor off.
        figure_every_n_steps: Optimizer steps from one figure by layer to the next; 0 draws none.
        subspace: Which subspace; None takes that of the `ProjectUpdate` callback.

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
        self._hook: ProjectionHook | None = None  # of the projection that is monitored
        self._last_step = 0

    def prepare(self, device: torch.device | str = "cpu") -> None:
        """Spans a subspace of its own where one was given, once."""
        if self.subspace is not None and self._projector is None:
            self._projector = UpdateProjector(prepare_subspace(self.subspace, device=device), component="parallel")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Spans a subspace of its own where one was given."""
        if stage == "fit" and self.every_n_steps > 0:
            self.prepare(trainer.strategy.root_device)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Binds its own projector, or takes that of `ProjectUpdate` and has it measure before it projects.

        If the step that is being taken will be logged, its update is measured before it is projected.
        """
        self._last_step = trainer.global_step
        if self._projector is not None:
            self._projector.bind(find_model(pl_module))
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ProjectUpdate) and callback.hook is not None:
                self._hook, self._projector = callback.hook, callback.projector
                callback.hook.wants_measures = lambda: self._is_due(trainer.global_step + 1)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Measures on the schedule, once per optimizer step whatever the accumulation."""
        step = trainer.global_step
        if self._projector is None or step == self._last_step:
            return
        self._last_step = step
        if not self._is_due(step):
            return
        measures = self._projector.measure()
        unprojected = self._find_unprojected() or measures
        scalars = summarise_measures(measures, self._projector.component, unprojected=unprojected)
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=step)
            if self._draws(step) and isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("update/by_layer", draw_layers(unprojected), global_step=step)

    def _find_unprojected(self) -> list[UpdateMeasure] | None:
        """Returns the update as the optimizer left it in the last step; None if that step was not projected."""
        if self._hook is None or self._hook.measured is None:
            return None
        step, measures = self._hook.measured
        return measures if step == self._hook.num_steps else None

    def _is_due(self, step: int) -> bool:
        return self.every_n_steps > 0 and (step % self.every_n_steps == 0 or self._draws(step))

    def _draws(self, step: int) -> bool:
        return self.figure_every_n_steps > 0 and step % self.figure_every_n_steps == 0


def summarise_measures(
    measures: Sequence[UpdateMeasure], component: Component, *, unprojected: Sequence[UpdateMeasure] | None = None
) -> dict[str, float]:
    """Returns the scalars of the monitor, for the whole model and by kind of module.

    Args:
        measures: The update as it is.
        component: The component that is kept, from which the leak is counted.
        unprojected: The update as the optimizer left it, whose energies count; None when nothing was projected.
    """
    by_kind: dict[str, list[tuple[UpdateMeasure, UpdateMeasure]]] = defaultdict(list)
    pairs = list(zip(measures, unprojected or measures, strict=True))
    for pair in pairs:
        by_kind[pair[0].slot.kind].append(pair)
    scalars = _summarise(pairs, component, suffix="")
    for kind, group in by_kind.items():
        scalars |= _summarise(group, component, suffix=f"/{kind}")
    return {name: value for name, value in scalars.items() if not math.isnan(value)}


def _summarise(
    pairs: Sequence[tuple[UpdateMeasure, UpdateMeasure]], component: Component, *, suffix: str
) -> dict[str, float]:
    group, unprojected = zip(*pairs, strict=True)
    return {
        f"update/energy_inside{suffix}": sum_energy(unprojected, "parallel"),
        f"update/chance{suffix}": sum_chance(unprojected, "parallel"),
        f"update/norm{suffix}": math.sqrt(sum(measure.total for measure in group)),
        f"update/leak{suffix}": sum_leak(group, component),
        f"update/stuck_share{suffix}": sum(m.num_stuck for m in group) / sum(m.num_weights for m in group),
    }
