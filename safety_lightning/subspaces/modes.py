"""Finds the modes of an update: its leading singular vectors, as many as hold each share of its energy.

Shapes in this file: D = dimension of the subspaces (rows of the update as seen from the wanted side), N = columns of
the update, K = number of modes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safety_lightning.errors import UserError
from safety_lightning.subspaces.decomposition import NOISE_FLOOR, Side, decompose_delta, find_energy_ranks

DEFAULT_ETAS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)
_SKETCH_ITERATIONS = 2
_CHUNK_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class Modes:
    """The leading modes of one update, and how many of them hold each share of its energy.

    The basis is ``matrix`` itself, or ``matrix @ weights`` for an update with more rows than columns: its basis is
    made in chunks of rows when it is compared, so that a vocabulary-sized update costs no second copy.

    Attributes:
        etas: Shares of the energy, each in (0, 1].
        ranks: The rank that belongs to each share; zeros for an update of zero.
        matrix: Orthonormal columns, shape ``(D, K)``, or the update, shape ``(D, N)``; float32 or float64.
        weights: None, or what makes the update's columns orthonormal, shape ``(N, K)``, as wide as ``matrix``.
    """

    etas: tuple[float, ...]
    ranks: tuple[int, ...]
    matrix: Tensor
    weights: Tensor | None = None

    @property
    def dimension(self) -> int:
        """D."""
        return self.matrix.shape[0]

    @property
    def rank(self) -> int:
        """K, the number of modes at the largest share."""
        return max(self.ranks)

    def read_rows(self, start: int, stop: int) -> Tensor:
        """Returns some rows of the basis, shape ``(stop − start, K)``."""
        rows = self.matrix[start:stop]
        return rows if self.weights is None else rows @ self.weights

    def read_basis(self, eta: float) -> Tensor:
        """Returns the basis that holds one of the shares, shape ``(D, K)``.

        Raises:
            ValueError: If it is none of the shares that were asked for.
        """
        if eta not in self.etas:
            raise ValueError(f"eta must be one of {list(self.etas)}, got {eta}")
        return self.read_rows(0, self.dimension)[:, : self.ranks[self.etas.index(eta)]]


def check_etas(etas: Sequence[float]) -> None:
    """Raises ValueError unless the shares are one or more different numbers in (0, 1]."""
    if not etas:
        raise UserError("etas must hold at least one number in (0, 1], got none")
    for eta in etas:
        if not 0 < eta <= 1:
            raise UserError(f"etas must be in (0, 1], got {eta}")
    if len(set(etas)) < len(etas):
        twice = next(eta for eta in etas if list(etas).count(eta) > 1)
        raise UserError(f"etas must be different, got {twice} twice")


def span_modes(update: Tensor, *, etas: Sequence[float] = DEFAULT_ETAS, side: Side = "left") -> Modes:
    """Finds the leading modes of an update for every share of energy, by one decomposition of its smaller side.

    Args:
        update: Finite, float32 or float64, shape ``(rows, columns)``; it must not change while the modes are used.
        etas: Shares of the squared singular values, each in (0, 1].
        side: ``left`` for the output side (columns of U), ``right`` for the input side (columns of V). The modes of
            activations, one a row, are those of the right side.

    Returns:
        The modes on the update's device. They are float32 for a float32 update but for one so badly conditioned
        that float32 would lose its small modes.

    Raises:
        ValueError: If the update is no matrix or is narrower than float32, or a share is outside (0, 1].
    """
    check_etas(etas)
    matrix_DN = update if side == "left" else update.mT
    is_wide = matrix_DN.shape[0] <= matrix_DN.shape[1]
    found = decompose_delta(matrix_DN, side="left" if is_wide else "right", energy=max(etas))
    total = sum(float(rows.double().square().sum()) for rows in update.split(_CHUNK_ROWS))  # no float64 copy of it all
    ranks = find_energy_ranks(found.singular_values.square(), etas, total=total)
    vectors = found.vectors[:, : max(ranks)]
    dtype = torch.float64 if found.method == "refined" else update.dtype
    if is_wide or max(ranks) == 0:
        return Modes(etas=tuple(etas), ranks=tuple(ranks), matrix=_fit_rows(vectors, len(matrix_DN)).to(dtype))
    weights = (vectors / found.singular_values[: max(ranks)]).to(dtype)
    return Modes(etas=tuple(etas), ranks=tuple(ranks), matrix=matrix_DN.to(dtype), weights=weights)


def sketch_modes(
    update: Tensor, *, etas: Sequence[float] = DEFAULT_ETAS, side: Side = "left", fraction: float = 0.25, seed: int = 0
) -> Modes:
    """Estimates the leading modes of an update from a random projection to a fraction of its rank.

    Paper: the release does this to matrices of more than 10,000 rows. The shares are of the energy that the
    projection caught, so that ranks come out too small.

    Args:
        update: As in `span_modes`.
        etas: As in `span_modes`.
        side: As in `span_modes`.
        fraction: The rank of the projection as a share of the smaller dimension, in (0, 1].
        seed: Seed of the projection; the process's own random state is left as it was.

    Returns:
        The modes, of the update's dtype and device.

    Raises:
        ValueError: As `span_modes`.
    """
    check_etas(etas)
    matrix_DN = update if side == "left" else update.mT
    rank = max(1, int(fraction * min(matrix_DN.shape)))
    if not matrix_DN.any():
        return Modes(etas=tuple(etas), ranks=(0,) * len(etas), matrix=matrix_DN[:, :0])
    with torch.random.fork_rng([update.device] if update.is_cuda else []):
        torch.manual_seed(seed)
        vectors, values, _ = torch.svd_lowrank(matrix_DN, q=rank, niter=_SKETCH_ITERATIONS)
    values = values[values > NOISE_FLOOR * values[0]]
    ranks = find_energy_ranks(values.double().square(), etas)
    return Modes(etas=tuple(etas), ranks=tuple(ranks), matrix=vectors[:, : max(ranks)])


def span_covariance_modes(covariance_DD: Tensor, *, etas: Sequence[float] = DEFAULT_ETAS) -> Modes:
    """Finds the leading modes of activations from their sum of products, AᵀA, whatever their number.

    Args:
        covariance_DD: Symmetric and positive semi-definite up to rounding, float64, shape ``(D, D)``.
        etas: As in `span_modes`.

    Returns:
        The modes, float64. Those under `NOISE_FLOOR` of the largest singular value of A do not count.
    """
    check_etas(etas)
    squares, vectors = torch.linalg.eigh(covariance_DD)
    squares, vectors = squares.flip(0), vectors.flip(1)
    kept = squares[squares > NOISE_FLOOR**2 * squares[0].clamp_min(0)]
    ranks = find_energy_ranks(kept, etas)
    return Modes(etas=tuple(etas), ranks=tuple(ranks), matrix=vectors[:, : max(ranks)])


def _fit_rows(vectors: Tensor, num_rows: int) -> Tensor:
    """Returns the vectors; for an update of zero, which has none, an empty basis of the right dimension."""
    return vectors if vectors.shape[1] else vectors.new_zeros(num_rows, 0)
