"""Spans a subspace: how many directions, and which.

Shapes in this file: M = rows as seen from the wanted side, N = columns, K = rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from safety_lightning.errors import UserError
from safety_lightning.subspaces.decomposition import Decomposition, Side, decompose_delta
from safety_lightning.subspaces.library import DecompositionLibrary
from safety_lightning.system.randomness import seed_generator

Source = Literal["top_k", "random_k", "random"]

_DRAWN_AT_ONCE = 16  # torch draws normal numbers in groups of this size: whole groups do not depend on what follows


@dataclass(frozen=True)
class Basis:
    """An orthonormal basis and what is known of the delta it came from.

    Attributes:
        columns: Orthonormal columns, float32, shape ``(M, K)``; K = 0 is the empty subspace of a zero delta.
        wanted_rank: The rank that the fraction asked for; K is smaller when the delta's numerical rank is.
        delta_norm: Frobenius norm of the delta.
        method: How it was decomposed: ``gram``, ``svd``, ``zero``, or ``qr`` for a random basis.
    """

    columns: Tensor
    wanted_rank: int
    delta_norm: float
    method: str

    @property
    def rank(self) -> int:
        """The number of directions, K."""
        return self.columns.shape[1]


def rank_from_fraction(fraction: float, num_rows: int, num_columns: int) -> int:
    """Returns the rank that a fraction asks for, k = max(1, floor(ρ · min(M, N))).

    Raises:
        ValueError: If the fraction is outside (0, 1].

    Example:
        >>> rank_from_fraction(0.25, 576, 1536)
        144
    """
    check_fraction(fraction)
    exact = fraction * min(num_rows, num_columns)
    nearest = round(exact)  # 0.29 * 100 is 28.999999999999996 in floating point: meant is 29
    return max(1, nearest if math.isclose(exact, nearest, rel_tol=1e-12) else math.floor(exact))


def check_fraction(fraction: float) -> None:
    """Raises ValueError unless the fraction is in (0, 1]."""
    if not 0 < fraction <= 1:
        raise UserError(f"fraction must be in (0, 1], got {fraction}")


def span_subspace(
    delta: Tensor,
    *,
    fraction: float,
    source: Source = "top_k",
    side: Side = "left",
    name: str = "",
    seed: int = 0,
    library: DecompositionLibrary | None = None,
) -> Basis:
    """Spans the subspace of one delta.

    A zero delta has no subspace whatever the source: its basis is empty. A basis stops at the numerical rank of its
    delta.

    Args:
        delta: reference − base, float32 or float64, finite, shape ``(rows, columns)``.
        fraction: ρ in (0, 1], of the smaller dimension.
        source: ``top_k`` takes the leading singular vectors; ``random_k`` as many of the same vectors by a seeded
            permutation (a larger fraction contains a smaller one's); ``random`` a Haar-random basis.
        side: ``left`` for the output side, ``right`` for the input side.
        name: The tensor's name, which random draws depend on beside the seed.
        seed: Seed of the random sources.
        library: Where decompositions are looked for and kept; None decomposes anew.

    Returns:
        The basis, on the delta's device.

    Raises:
        ValueError: If the delta is no matrix or too narrow, or the fraction is outside (0, 1].
    """
    wanted = rank_from_fraction(fraction, *delta.shape)
    norm = float(torch.linalg.vector_norm(delta, dtype=torch.float64))
    if source == "random":
        num_rows = delta.shape[0] if side == "left" else delta.shape[1]
        columns = draw_haar_basis(num_rows, wanted if norm > 0 else 0, generator=seed_generator(f"{seed}:{name}"))
        return Basis(columns.to(delta.device), wanted, norm, "qr")
    decompose = decompose_delta if library is None else library.decompose
    decomposition = decompose(delta, side=side, rank=wanted if source == "top_k" else None)
    if source == "random_k":
        order = draw_order(decomposition.rank, seed=seed, name=name).to(delta.device)
        decomposition = _reorder(decomposition, order)
    columns = decomposition.vectors[:, :wanted].to(torch.float32).contiguous()
    return Basis(columns, wanted, norm, decomposition.method)


def draw_haar_basis(num_rows: int, rank: int, *, generator: torch.Generator) -> Tensor:
    """Draws orthonormal columns with the uniform (Haar) law, from a Gaussian matrix made orthonormal.

    It has the law of the singular vectors of a Gaussian matrix, without decomposing one. The first columns do not
    depend on how many follow: from one seed, a larger rank contains a smaller one's directions.

    Args:
        num_rows: M.
        rank: K, at most M.
        generator: A CPU generator, so that the draw is the same on every device.

    Returns:
        float32, shape ``(M, K)``.
    """
    num_drawn = -(-rank // _DRAWN_AT_ONCE) * _DRAWN_AT_ONCE
    gaussian = torch.randn(num_drawn, num_rows, generator=generator, dtype=torch.float64)[:rank].mT
    columns = _orthonormalise(gaussian)
    if columns is not None and rank > num_rows // 2:
        columns = _orthonormalise(columns)  # a nearly square Gaussian matrix is worse conditioned: once more
    if columns is None:
        columns, triangle = torch.linalg.qr(gaussian)
        columns = columns * torch.where(triangle.diagonal() < 0, -1.0, 1.0)  # QR's own signs would bias the law
    basis: Tensor = columns.to(torch.float32)
    return basis


def _orthonormalise(matrix_MK: Tensor) -> Tensor | None:
    """Returns Q of QR with a positive diagonal, from the Cholesky factor R of its Gram matrix; None if it fails."""
    triangle, failed = torch.linalg.cholesky_ex(matrix_MK.mT @ matrix_MK, upper=True)
    if failed:
        return None
    solved: Tensor = torch.linalg.solve_triangular(triangle, matrix_MK, upper=True, left=False)
    return solved


def draw_order(rank: int, *, seed: int, name: str) -> Tensor:
    """Draws the permutation of a matrix's directions that ``random_k`` takes them in; int64, shape ``(K,)``."""
    return torch.randperm(rank, generator=seed_generator(f"{seed}:{name}"))


def _reorder(decomposition: Decomposition, order: Tensor) -> Decomposition:
    return Decomposition(decomposition.vectors[:, order], decomposition.singular_values[order], decomposition.method)
