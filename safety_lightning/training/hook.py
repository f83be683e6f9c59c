"""Projection after an optimizer's steps: what every trainer shares, and the way into a plain training loop."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from safety_lightning.errors import UserError
from safety_lightning.projection import Component, SubspaceSpec, UpdateProjector, prepare_subspace
from safety_lightning.training.increments import IncrementMeter
from safety_lightning.training.zero import ZeroMasters, ZeroSteps

When = Literal["every_n_steps", "end"]

_CLAIMED: weakref.WeakKeyDictionary[torch.optim.Optimizer, ProjectionHook] = weakref.WeakKeyDictionary()


class ProjectionHook:
    """Projects after every n-th optimizer step.

    Args:
        projector: The projector, bound before the first step.
        every_n_steps: n, at least 1.
        moments: Project the optimizer's first moments beside the weights, where it is attached to one.

    Attributes:
        num_steps: Optimizer steps so far; a trainer may save and restore it.
        meter: Measures what the optimizer wants between two projections; None measures nothing.
    """

    def __init__(self, projector: UpdateProjector, *, every_n_steps: int = 1, moments: bool = False) -> None:
        self.projector = projector
        self.every_n_steps = every_n_steps
        self.moments = moments
        self.num_steps = 0
        self.meter: IncrementMeter | None = None
        self._handle: RemovableHandle | None = None
        self._is_confirmed = False

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Acts after each step that an optimizer takes: under accumulation or gradient scaling, not every batch.

        Args:
            optimizer: The optimizer, or accelerate's wrapper of one.

        Raises:
            UserError: If it is attached already, or see `claim`.
        """
        if self._handle is not None:
            raise UserError("a projection must be attached once, it is attached already: call remove() first")
        self._handle = self.claim(optimizer).register_step_post_hook(self._act)
        self._is_confirmed = False

    def claim(self, optimizer: Any) -> torch.optim.Optimizer:
        """Checks that an optimizer can be projected after, and makes this its one projection until `remove`.

        Returns:
            The torch optimizer, without a wrapper.

        Raises:
            UserError: If it has a projection already, does not train what is projected, or is no optimizer of torch.
        """
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper has no hooks of its own
        if not isinstance(inner, torch.optim.Optimizer):
            raise UserError(
                f"the optimizer must be one of torch, got {type(inner).__name__}: DeepSpeed's are projected by `fit "
                "--trainer.strategy zero1`, zero2 and zero3 alone"
            )
        if _CLAIMED.get(inner, self) is not self:
            raise UserError("an optimizer must have one projection, this one has one already: call its remove() first")
        self.projector.check_optimizer(inner)
        _CLAIMED[inner] = self
        return inner

    def _act(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not self._is_confirmed:  # sharding after the attachment puts other parameters into the optimizer
            self.projector.check_optimizer(optimizer)
            self._is_confirmed = True
        self.end_step(self.num_steps + 1)
        if self.moments and self.num_steps % self.every_n_steps == 0:
            self.projector.project_moments(optimizer)

    def attach_masters(self, masters: ZeroMasters) -> None:
        """Acts after each step of ZeRO's optimizer, group by group, before the module's weights are made of masters."""

        def act(begins: bool, stepped: set[int]) -> None:
            self.end_step(self.num_steps + int(begins), among=stepped if masters.num_groups > 1 else None)

        self._handle = ZeroSteps(masters, act).handle

    def watch(self, projector: UpdateProjector, is_due: Callable[[int], bool]) -> IncrementMeter:
        """Has increments measured from now on.

        Args:
            projector: Knows the subspace that is asked about; bound before.
            is_due: Whether a step's increment is wanted.
        """
        self.meter = IncrementMeter(projector, is_due, every_n_steps=self.every_n_steps)
        if self.num_steps % self.every_n_steps == 0:
            self.meter.begin(self.num_steps)
        return self.meter

    def end_step(self, step: int, *, among: Collection[int] | None = None) -> None:
        """Projects if this many optimizer steps are a multiple of n.

        Args:
            step: Optimizer steps so far.
            among: Identities of the parameters that were stepped; None for all. Increments are measured of all alone.
        """
        self.num_steps = step
        meter = self.meter if among is None else None
        if meter is not None:
            meter.end_step(step)
        if step % self.every_n_steps == 0:
            self.projector.project(among)
            if meter is not None:
                meter.begin(step)

    def remove(self) -> None:
        """Lets go of the optimizer: nothing is projected from now on."""
        for optimizer in [one for one, hook in _CLAIMED.items() if hook is self]:
            del _CLAIMED[optimizer]
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def attach_projection(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    subspace: SubspaceSpec,
    *,
    component: Component = "parallel",
    every_n_steps: int = 1,
    origin: str | None = None,
    moments: bool = False,
) -> ProjectionHook:
    """Keeps a model's update in one component of a subspace from now on, in any training loop.

    Args:
        optimizer: The optimizer of the model's parameters, or what accelerate made of it; the projection acts right
            after its `step`.
        model: The model that is trained, on its device already.
        subspace: Which subspace; its reference must name the checkpoint that the update is measured from.
        component: ``parallel`` or ``orthogonal``.
        every_n_steps: Optimizer steps from one projection to the next.
        origin: The checkpoint that the update is measured from, of a model that has moved already: the reference where
            a run goes on, another one where the update of before is to stay. None for the reference, which the model
            must be at.
        moments: Project the optimizer's first moments too; see `ProjectUpdate`.

    Returns:
        The hook: ``remove()`` ends the projection, ``projector`` can also measure.

    Raises:
        UserError: If the checkpoints and the model do not fit each other, the model has moved from the reference and
            there is no origin, the optimizer does not train what is projected or has a projection already, or
            `every_n_steps` is below 1.
    """
    check_steps(every_n_steps)
    device = next(model.parameters()).device
    prepared = prepare_subspace(subspace, device=device, origin=origin)
    hook = ProjectionHook(UpdateProjector(prepared, component=component), every_n_steps=every_n_steps, moments=moments)
    hook.projector.bind(model)
    if origin is None:
        hook.projector.check_start()
    hook.attach(optimizer)
    return hook


def check_steps(every_n_steps: int) -> None:
    """Raises UserError unless the optimizer steps from one projection to the next are at least 1."""
    if every_n_steps < 1:
        raise UserError(f"every_n_steps must be at least 1, got {every_n_steps}")
