"""Projects the update of a live model's weights, in place, and measures it. Knows no trainer.

Shapes in this file: M = output features, N = input features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from safety_lightning.checkpoints import MatrixSlot
from safety_lightning.errors import UserError
from safety_lightning.projection.operators import Component, compute_coordinates, expand_coordinates, sum_squares
from safety_lightning.projection.rows import UpdateMeasure
from safety_lightning.projection.sharding import (
    agree_on,
    gather,
    lay_out_basis,
    project_in_place,
    replicate_partial,
    shard_like,
)
from safety_lightning.projection.spec import PreparedSubspace
from safety_lightning.subspaces import Side
from safety_lightning.system.devices import in_full_precision


@dataclass(frozen=True)
class _BoundMatrix:
    slot: MatrixSlot
    parameter: nn.Parameter
    reference_MN: Tensor  # float32, rounded to the parameter's dtype
    basis: Tensor  # float32

    @property
    def weights_MN(self) -> Tensor:
        """A view of the live weights: strategies may move a parameter's storage, so it is taken anew each time."""
        return self.slot.view(self.parameter.data)


class UpdateProjector:
    """Keeps a model's update from its reference in one component of a subspace.

    The displacement from the reference is projected, never the gradient: under adaptive optimizers a projected
    gradient leaves about a quarter of the displacement on the wrong side.

    Args:
        prepared: The subspace and its reference.
        component: Which part of the update is kept.
    """

    def __init__(self, prepared: PreparedSubspace, *, component: Component) -> None:
        self.prepared = prepared
        self.component: Component = component
        self._bound: list[_BoundMatrix] = []

    @property
    def side(self) -> Side:
        """The side that the bases lie on."""
        return self.prepared.spec.side

    def bind(self, model: nn.Module) -> None:
        """Finds the live parameters, and brings reference weights (float32) and bases to their devices.

        Args:
            model: The model that is trained; its parameters' names are those of the reference's files, give or
                take the prefix of its base model. Reference weights are read from the files, so that a resumed
                model binds like a fresh one, and rounded to the dtype that the model is in: training began from
                rounded weights, and the noise of that rounding is no update.

        Raises:
            UserError: If a tensor of the subspace has no live parameter, or one of another shape.
        """
        live = match_parameters(model, [slot.tensor for slot in self.prepared.slots])
        name, reference = "", torch.empty(0)
        self._bound = []
        for slot in self.prepared.slots:
            parameter = live[slot.tensor]
            if slot.tensor != name:
                name = slot.tensor
                whole = self.prepared.reference.read(name).to(parameter.device)
                _check_shape(name, parameter, whole)
                whole = whole.to(parameter.dtype).float()
                reference = shard_like(whole, parameter.data)
            basis = self.prepared.subspace.bases[slot.name].columns.to(parameter.device)
            basis = agree_on(lay_out_basis(basis, parameter.data, slot, side=self.side))
            self._bound.append(_BoundMatrix(slot, parameter, slot.view(reference), basis))
        self.prepared.reference.close()

    @torch.no_grad()
    @in_full_precision()
    def project(self) -> None:
        """Replaces the live weights by reference + projected update, in place, computing in float32."""
        for bound in self._bound:
            project_in_place(
                bound.weights_MN, bound.reference_MN, bound.basis, component=self.component, side=self.side
            )

    @torch.no_grad()
    @in_full_precision()
    def penalize(self, weight: float) -> float:
        """Adds the gradient of a penalty on what would be removed to the live gradients, in place.

        The penalty is weight · Σ ‖update − kept component‖², over all matrices whose parameter has a gradient; its
        gradient is 2 · weight · (update − kept component).

        Returns:
            The penalty.
        """
        total = 0.0
        for bound in self._bound:
            if bound.parameter.grad is not None:
                removed_MN = self._find_removed(bound)
                total += float(gather(sum_squares(removed_MN)))
                gradient_MN = bound.slot.view(bound.parameter.grad)
                gradient_MN.add_(removed_MN.to(gradient_MN.dtype), alpha=2 * weight)
        return weight * total

    @torch.no_grad()
    @in_full_precision()
    def shrink(self, share: float) -> None:
        """Takes a share of what would be removed from the live weights, in place: 0 does nothing, 1 projects."""
        for bound in self._bound:
            weights_MN = bound.weights_MN
            weights_MN.copy_(weights_MN.float() - share * self._find_removed(bound))

    def _find_removed(self, bound: _BoundMatrix) -> Tensor:
        """Returns the update without its kept component, float32, laid out like the weights."""
        update_MN = bound.weights_MN.float() - bound.reference_MN
        coordinates = replicate_partial(compute_coordinates(update_MN, bound.basis, side=self.side))
        inside_MN = expand_coordinates(coordinates, bound.basis, side=self.side)
        return update_MN - inside_MN if self.component == "parallel" else inside_MN

    @torch.no_grad()
    @in_full_precision()
    def measure(self, *, since: Sequence[Tensor] | None = None) -> list[UpdateMeasure]:
        """Measures the live update of every matrix; changes nothing.

        Args:
            since: What `copy_weights` returned at an earlier time, from which the update is measured then; None for
                the reference.
        """
        starts = [bound.reference_MN for bound in self._bound] if since is None else since
        return [self._measure_matrix(*pair) for pair in zip(self._bound, starts, strict=True)]

    @torch.no_grad()
    def copy_weights(self) -> list[Tensor]:
        """Returns copies of the live matrices in the memory of the CPU, of which there is more than on a GPU."""
        return [bound.weights_MN.detach().to("cpu", copy=True) for bound in self._bound]

    def _measure_matrix(self, bound: _BoundMatrix, start_MN: Tensor) -> UpdateMeasure:
        weights_MN = bound.weights_MN
        start_MN = start_MN.to(weights_MN.device)
        update_MN = weights_MN.float() - start_MN.float()
        coordinates = replicate_partial(compute_coordinates(update_MN, bound.basis, side=self.side))
        outside_MN = update_MN.sub_(expand_coordinates(coordinates, bound.basis, side=self.side))
        return UpdateMeasure(
            slot=bound.slot,
            rank=bound.basis.shape[1],
            dimension=bound.basis.shape[0],
            inside=float(gather(sum_squares(coordinates))),
            outside=float(gather(sum_squares(outside_MN))),
            num_stuck=int(gather((weights_MN == start_MN.to(weights_MN.dtype)).sum())),
            num_weights=weights_MN.numel(),
        )


def match_parameters(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """Finds the live parameter behind each tensor name of a checkpoint.

    Raises:
        UserError: If a name has no parameter; up to three are named.
    """
    live = {_strip_wrappers(name): parameter for name, parameter in model.named_parameters()}
    prefix = getattr(model, "base_model_prefix", "") + "."
    candidates: list[Callable[[str], str]] = [str, lambda n: prefix + n, lambda n: n.removeprefix(prefix)]
    found = {}
    for name in names:
        match = next((live[rename(name)] for rename in candidates if rename(name) in live), None)
        if match is not None:
            found[name] = match
    absent = sorted({name for name in names if name not in found})
    if absent:
        raise UserError(
            f"every tensor of the subspace must be a parameter of the model, {len(absent)} are not: "
            f"{', '.join(absent[:3])} (the model has {', '.join(list(live)[:2])}, ...)"
        )
    return found


def _strip_wrappers(name: str) -> str:
    return name.replace("_orig_mod.", "").removeprefix("module.")


def _check_shape(name: str, parameter: nn.Parameter, reference: Tensor) -> None:
    if parameter.shape != reference.shape:
        raise UserError(
            f"parameter {name} must have the reference's shape {tuple(reference.shape)}, got {tuple(parameter.shape)}"
        )
