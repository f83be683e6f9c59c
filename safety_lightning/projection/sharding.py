"""Lets one code path serve whole and sharded (DTensor) parameters.

A sharded weight is never gathered: the basis is laid out like the weight, and only coordinates, which are small,
cross between processes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from safety_lightning.checkpoints import MatrixSlot
from safety_lightning.errors import UserError
from safety_lightning.subspaces import Side


def lay_out_reference(reference: Tensor, parameter: Tensor) -> Tensor:
    """Shards whole reference weights like their parameter; a whole parameter leaves them whole."""
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
