"""Projection in a plain training loop: a hook on the optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from safety_lightning.errors import UserError
from safety_lightning.projection import Component, SubspaceSpec, UpdateProjector, prepare_subspace


@dataclass
class AttachedProjection:
    """A projection that acts after an optimizer's steps, until it is removed.

    Attributes:
        projector: The projector, which can also measure.
    """

    projector: UpdateProjector
    _handle: RemovableHandle

    def remove(self) -> None:
        """Stops projecting."""
        self._handle.remove()


def attach_projection(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    subspace: SubspaceSpec,
    *,
    component: Component = "parallel",
    every_n_steps: int = 1,
) -> AttachedProjection:
    """Keeps a model's update in one component of a subspace from now on, in any training loop.

    Args:
        optimizer: The optimizer of the model's parameters; the projection acts right after its `step`.
        model: The model that is trained, on its device already.
        subspace: Which subspace; its reference must name the checkpoint that the update is measured from.
        component: ``parallel`` or ``orthogonal``.
        every_n_steps: Optimizer steps from one projection to the next.

    Returns:
        A handle that ends the projection.

    Raises:
        UserError: If the checkpoints and the model do not fit each other, or `every_n_steps` is below 1.
    """
    if every_n_steps < 1:
        raise UserError(f"every_n_steps must be at least 1, got {every_n_steps}")
    device = next(model.parameters()).device
    projector = UpdateProjector(prepare_subspace(subspace, device=device), component=component)
    projector.bind(model)
    handle = hook_projection(optimizer, projector, every_n_steps=every_n_steps, num_steps=[0])
    return AttachedProjection(projector, handle)


def hook_projection(
    optimizer: torch.optim.Optimizer, projector: UpdateProjector, *, every_n_steps: int, num_steps: list[int]
) -> RemovableHandle:
    """Projects after every n-th step of an optimizer.

    Args:
        optimizer: The optimizer; closures, skipped steps under gradient scaling and any accumulation are fine.
        projector: A bound projector.
        every_n_steps: n.
        num_steps: A list of one number, the steps taken so far, which the caller may save and restore.
    """

    def project_after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        num_steps[0] += 1
        if num_steps[0] % every_n_steps == 0:
            projector.project()

    return optimizer.register_step_post_hook(project_after_step)
