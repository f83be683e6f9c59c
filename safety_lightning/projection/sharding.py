"""Projects whole and sharded (DTensor) weights by one code path, and lays out what it needs beside them.

A sharded weight is never gathered: the basis is laid out like the weight, and only coordinates, which are small,
cross between processes. `project_gathered` is the plain form, which tests hold it against.

Shapes in this file: M = output features, N = input features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from safety_lightning.checkpoints import MatrixSlot
from safety_lightning.errors import UserError
from safety_lightning.projection.operators import Component, compute_coordinates, project_update
from safety_lightning.subspaces import Side


def project_gathered(
    weights_MN: Tensor, reference_MN: Tensor, basis: Tensor, *, component: Component, side: Side
) -> None:
    """Replaces weights by reference + projected update, in place, the plain way: every process gathers the matrix.

    Args:
        weights_MN: Whole or sharded weights of any floating dtype, shape ``(M, N)``.
        reference_MN: The weights that the update is measured from, float32, laid out like the weights.
        basis: Orthonormal columns, float32, as `lay_out_basis` lays them out.
        component: Which part of the update is kept.
        side: Which side the basis lies on.
    """
    start_MN = gather(reference_MN)
    update_MN = gather(weights_MN).float() - start_MN
    kept_MN = start_MN + project_update(update_MN, gather(basis), component=component, side=side)
    weights_MN.copy_(shard_like(kept_MN, weights_MN))


def project_in_place(
    weights_MN: Tensor, reference_MN: Tensor, basis: Tensor, *, component: Component, side: Side
) -> None:
    """Does what `project_gathered` does, and gathers coordinates alone; a whole matrix costs one temporary copy."""
    update_MN = weights_MN.float() - reference_MN
    coordinates = replicate_partial(compute_coordinates(update_MN, basis, side=side))
    start_MN, sign = (reference_MN, 1) if component == "parallel" else (weights_MN.float(), -1)
    first, second = (basis, coordinates) if side == "left" else (coordinates, basis.mT)
    if is_sharded(weights_MN):
        weights_MN.copy_(start_MN + sign * (first @ second))
    else:
        weights_MN.copy_(torch.addmm(start_MN, first, second, alpha=sign, out=update_MN))


def shard_like(reference: Tensor, parameter: Tensor) -> Tensor:
    """Shards whole weights like their parameter; a whole parameter leaves them whole."""
    if not isinstance(parameter, DTensor):
        return reference
    return distribute_tensor(reference, parameter.device_mesh, parameter.placements)


def lay_out_basis(basis: Tensor, parameter: Tensor, slot: MatrixSlot, *, side: Side) -> Tensor:
    """Shards a basis's rows where they run along a parameter's sharded dimension, else replicates it.

    Raises:
        UserError: If the parameter is a sharded stack of experts, or is sharded along another dimension than 0.
    """
    if not isinstance(parameter, DTensor):
        return basis
    if slot.index is not None or any(isinstance(place, Shard) and place.dim != 0 for place in parameter.placements):
        raise UserError(
            f"sharded parameter {slot.name} must be a matrix or a vector sharded along its rows, got shape "
            f"{tuple(parameter.shape)} with placements {parameter.placements}"
        )
    runs_along_rows = (side == "left") != slot.transposed
    placements = parameter.placements if runs_along_rows else [Replicate()] * len(parameter.placements)
    return distribute_tensor(basis, parameter.device_mesh, placements)


def agree_on(tensor: Tensor) -> Tensor:
    """Gives every process the first one's whole tensor: decompositions may differ in their last digits."""
    if not isinstance(tensor, DTensor) and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast(tensor, src=0)
    return tensor


def replicate_partial(tensor: Tensor) -> Tensor:
    """Adds up coordinates that every process holds a part of; others are returned as they are."""
    if isinstance(tensor, DTensor) and any(place.is_partial() for place in tensor.placements):
        return tensor.redistribute(placements=[Replicate()] * len(tensor.placements))
    return tensor


def gather(tensor: Tensor) -> Tensor:
    """Returns the whole tensor on every process."""
    whole: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is distributed over processes."""
    return isinstance(tensor, DTensor)
