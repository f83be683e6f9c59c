"""Splits a weight update into its part inside a subspace and the rest, and measures the two.

Shapes in this file: M = output features, N = input features, K = rank; a basis has M rows for the left side and N
for the right.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from safety_lightning.subspaces import Side

Component = Literal["parallel", "orthogonal"]


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
    coordinates = find_coordinates(update_MN, basis, side=side)
    inside_MN = expand_coordinates(coordinates, basis, side=side)
    return inside_MN if component == "parallel" else update_MN - inside_MN


def find_coordinates(update_MN: Tensor, basis: Tensor, *, side: Side) -> Tensor:
    """Returns an update's coordinates in a basis: UᵀΔ, shape ``(K, N)``, or ΔV, shape ``(M, K)``."""
    return basis.mT @ update_MN if side == "left" else update_MN @ basis


def expand_coordinates(coordinates: Tensor, basis: Tensor, *, side: Side) -> Tensor:
    """Returns the update that has these coordinates, shape ``(M, N)``; the M x M projector is never formed."""
    return basis @ coordinates if side == "left" else coordinates @ basis.mT


def compute_energy_kept(update_MN: Tensor, basis: Tensor, *, component: Component, side: Side = "left") -> Tensor:
    r"""Returns the share of an update's energy in one component, ‖component‖² / ‖update‖² (paper, eq. 7).

    Args:
        update_MN: As in `project_update`.
        basis: As in `project_update`.
        component: Whose share.
        side: Which side the basis lies on.

    Returns:
        A float64 scalar in [0, 1]; NaN for an update of zero.

    Raises:
        ValueError: As `project_update`.

    Example:
        >>> basis = torch.tensor([[1.0], [0.0]])
        >>> compute_energy_kept(torch.tensor([[3.0], [4.0]]), basis, component="parallel")
        tensor(0.3600, dtype=torch.float64)
    """
    check_projection(update_MN, basis, side=side)
    total = sum_squares(update_MN)
    part = project_update(update_MN, basis, component=component, side=side)
    return sum_squares(part) / total


def compute_energy_by_rank(update_MN: Tensor, basis: Tensor, *, side: Side = "left") -> Tensor:
    """Returns the energy inside the first k columns of a basis for every k at once.

    One product gives the coordinates; the energies are a cumulative sum over the norms of their rows.

    Args:
        update_MN: As in `project_update`.
        basis: As in `project_update`.
        side: Which side the basis lies on.

    Returns:
        Float64, shape ``(K + 1,)``: squared norms (not shares), entry k for the first k columns, entry 0 zero.

    Raises:
        ValueError: As `project_update`.
    """
    check_projection(update_MN, basis, side=side)
    coordinates = find_coordinates(update_MN, basis, side=side)
    per_direction = coordinates.double().square().sum(dim=1 if side == "left" else 0)
    return torch.cat([per_direction.new_zeros(1), per_direction.cumsum(0)])


def compute_leak(stored_update_MN: Tensor, basis: Tensor, *, component: Component, side: Side = "left") -> Tensor:
    """Returns the share of the norm on the wrong side of the subspace after weights were stored.

    Args:
        stored_update_MN: Stored weights, rounded to their dtype, minus the reference; float32 or wider.
        basis: As in `project_update`.
        component: The component that should have been kept.
        side: Which side the basis lies on.

    Returns:
        A float64 scalar in [0, 1]; 0 for an update of zero.

    Raises:
        ValueError: As `project_update`.
    """
    wrong: Component = "orthogonal" if component == "parallel" else "parallel"
    share = compute_energy_kept(stored_update_MN, basis, component=wrong, side=side)
    return share.nan_to_num(0.0).sqrt()


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
