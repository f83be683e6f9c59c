"""Splits a weight update into its part inside a subspace and the rest.

Shapes in this file: M = output features, N = input features, K = rank; a basis has M rows for the left side and N
for the right.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from safety_lightning.subspaces import Side
from safety_lightning.system.devices import in_full_precision

Component = Literal["parallel", "orthogonal"]


@in_full_precision()
def project_update(update_MN: Tensor, basis: Tensor, *, component: Component, side: Side = "left") -> Tensor:
    r"""Keeps one component of an update with respect to a subspace (paper, eq. 5 and 6).

    With an orthonormal basis :math:`U`, ``parallel`` is :math:`UU^\top\Delta` (for the right side
    :math:`\Delta VV^\top`) and ``orthogonal`` is the rest; the two always add up to the update.

    Args:
        update_MN: Displacement from the reference weights, float32 or float64, shape ``(M, N)``.
        basis: Orthonormal columns, same dtype and device, shape ``(M, K)``, for the right side ``(N, K)``;
            ``K = 0`` is the empty subspace.
        component: Which part to keep.
        side: Which side the basis lies on.

    Returns:
        A new tensor of shape ``(M, N)``.

    Raises:
        ValueError: If shapes, dtypes or devices disagree, or the dtype is narrower than float32.

    Example:
        >>> project_update(torch.tensor([[3.0], [4.0]]), torch.tensor([[1.0], [0.0]]), component="orthogonal")
        tensor([[0.],
                [4.]])
    """
    check_projection(update_MN, basis, side=side)
    coordinates = compute_coordinates(update_MN, basis, side=side)
    inside_MN = expand_coordinates(coordinates, basis, side=side)
    return inside_MN if component == "parallel" else update_MN - inside_MN


def compute_coordinates(update_MN: Tensor, basis: Tensor, *, side: Side) -> Tensor:
    """Returns an update's coordinates in a basis: UᵀΔ, shape ``(K, N)``, or ΔV, shape ``(M, K)``."""
    return basis.mT @ update_MN if side == "left" else update_MN @ basis


def expand_coordinates(coordinates: Tensor, basis: Tensor, *, side: Side) -> Tensor:
    """Returns the update that has these coordinates, shape ``(M, N)``; the M x M projector is never formed."""
    return basis @ coordinates if side == "left" else coordinates @ basis.mT


def compute_chance(rank: int, num_rows: int, *, component: Component) -> float:
    """Returns the energy that a random update would keep: k/M, or 1 − k/M for ``orthogonal``.

    Args:
        rank: K.
        num_rows: The dimension of the side the basis lies on: M for the left side, N for the right.
        component: Whose share.

    Example:
        >>> compute_chance(2027, 8192, component="parallel")  # 0.99 of 2048: a quarter by chance
        0.2474365234375
    """
    inside = rank / num_rows
    return inside if component == "parallel" else 1 - inside


def sum_squares(tensor: Tensor) -> Tensor:
    """Returns the squared Frobenius norm as a float64 scalar."""
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=torch.float64)
    return norm.square()


def check_projection(update_MN: Tensor, basis: Tensor, *, side: Side) -> None:
    """Raises ValueError unless an update and a basis fit each other."""
    if update_MN.ndim != 2 or basis.ndim != 2:
        raise ValueError(
            f"update and basis must be matrices, got shapes {tuple(update_MN.shape)} and {tuple(basis.shape)}"
        )
    num_rows = update_MN.shape[0 if side == "left" else 1]
    if basis.shape[0] != num_rows:
        raise ValueError(f"basis must have {num_rows} rows on the {side} side, got {basis.shape[0]}")
    if update_MN.dtype not in (torch.float32, torch.float64) or basis.dtype != update_MN.dtype:
        raise ValueError(
            f"update and basis must both be float32 or both float64, got {update_MN.dtype} and {basis.dtype}"
        )
    if update_MN.device != basis.device:
        raise ValueError(f"update and basis must be on one device, got {update_MN.device} and {basis.device}")
