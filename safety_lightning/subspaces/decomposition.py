"""Decomposes a delta into singular values and the singular vectors of one side.

Shapes in this file: M = rows of the delta as seen from the wanted side, N = its columns, R = its numerical rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from safety_lightning.system.devices import in_full_precision

Side = Literal["left", "right"]
Method = Literal["gram", "refined", "zero"]

# Singular values below this share of the largest are rounding noise of float32 weights.
NOISE_FLOOR = 8 * torch.finfo(torch.float32).eps
# The Gram matrix squares: in float64 it resolves singular values down to about 1e-6 of the largest. Those below this
# share, with two digits to spare, are found anew where the larger ones are projected out.
GRAM_FLOOR = 1e-4
# Energies that differ by less than this share of the whole are equal: it is the energy of a value at the noise floor.
ENERGY_TOLERANCE = 1e-12
_CHUNK_ROWS = 8192
_MIN_STRIP = 64
# On two idle cores eigh takes 1.75 times as long on one thread as on two, from 512 to 2048 rows; with twelve other
# processes there, a ninth of the time (512 and 896 rows). Here the loss is under 0.1 s a matrix.
_ONE_THREAD_ROWS = 1024


@dataclass(frozen=True)
class Decomposition:
    """The singular values of a delta and its singular vectors on one side.

    Attributes:
        vectors: Orthonormal columns by falling singular value, float64, shape ``(M, R)``.
        singular_values: float64, shape ``(R,)``, falling.
        method: ``gram``, ``refined`` (where squaring would lose the small singular values) or ``zero`` (no delta).
    """

    vectors: Tensor
    singular_values: Tensor
    method: Method

    @property
    def rank(self) -> int:
        """The numerical rank, R."""
        return len(self.singular_values)


@in_full_precision()
def decompose_delta(
    delta: Tensor, *, side: Side = "left", rank: int | None = None, energy: float = 1.0
) -> Decomposition:
    r"""Finds the leading singular vectors of a delta (paper, section 3).

    The eigenvectors of the smaller Gram matrix, :math:`\Delta\Delta^\top` or :math:`\Delta^\top\Delta` in float64,
    give the vectors on their own side; those on the other side are :math:`u_i = \Delta v_i / \sigma_i`. Where a
    wanted singular value is under `GRAM_FLOOR` of the largest, the small ones are found from the Gram matrix of
    what the large ones leave, which squares nothing large.

    Args:
        delta: Finite, float32 or float64, shape ``(rows, columns)``.
        side: ``left`` for vectors on the output side (columns of U), ``right`` for the input side (columns of V).
        rank: How many vectors are wanted, at least 1; None for all. Fewer come back when the numerical rank
            (singular values above `NOISE_FLOOR` of the largest) is smaller.
        energy: Only as many vectors as hold this share of the squared singular values, in (0, 1]; 1 for all.

    Returns:
        The decomposition on the delta's device. Signs, and bases of equal singular values, are arbitrary.

    Raises:
        ValueError: If the delta is no matrix, is narrower than float32, the rank is below 1, or the energy is
            outside (0, 1].

    Example:
        >>> decompose_delta(torch.tensor([[3.0, 0.0], [0.0, 0.0]])).singular_values
        tensor([3.], dtype=torch.float64)
    """
    _check_delta(delta, rank, energy)
    matrix_MN = delta if side == "left" else delta.mT
    limit = min(matrix_MN.shape) if rank is None else min(rank, *matrix_MN.shape)
    if not matrix_MN.any():
        empty = torch.zeros(0, dtype=torch.float64, device=delta.device)
        return Decomposition(empty.new_zeros(len(matrix_MN), 0), empty, "zero")
    scale = _find_scale(matrix_MN)
    is_wide = matrix_MN.shape[0] <= matrix_MN.shape[1]
    tall = matrix_MN.mT if is_wide else matrix_MN
    values, vectors = _decompose_gram(_sum_of_products(tall, scale))
    limit = min(limit, _count_to_energy(values.square(), energy))
    num_large = int((values >= GRAM_FLOOR * values[0]).sum())
    method: Method = "gram" if limit <= num_large else "refined"
    if method == "refined":
        values, vectors = _refine(tall, scale, values, vectors, num_large)
        limit = min(limit, int((values > NOISE_FLOOR * values[0]).sum()))
    values, vectors = values[:limit], vectors[:, :limit]
    if not is_wide:
        vectors = _carry_over(tall, scale, values, vectors, min(num_large, limit))
    return Decomposition(vectors.contiguous(), values * scale, method)


def find_energy_ranks(squares_R: Tensor, shares: Sequence[float], *, total: float | None = None) -> list[int]:
    """Returns the smallest ranks that hold given shares of an energy.

    Shares that miss by less than `ENERGY_TOLERANCE` are held: half of four equal values is two, whatever the rounding.

    Args:
        squares_R: Squared singular values, float64, falling, shape ``(R,)``.
        shares: Each in (0, 1].
        total: The whole energy, where the squares are only the largest; None for their sum.

    Returns:
        A rank a share, at most R; zeros when there are no singular values.

    Example:
        >>> find_energy_ranks(torch.tensor([8.0, 1.0, 1.0]), [0.8, 0.85, 1.0])
        [1, 2, 3]
    """
    if len(squares_R) == 0:
        return [0] * len(shares)
    cumulative = squares_R.double().cumsum(0)
    whole = float(cumulative[-1]) if total is None else total
    wanted = cumulative.new_tensor(shares) * whole * (1 - ENERGY_TOLERANCE)
    ranks: list[int] = (torch.searchsorted(cumulative, wanted) + 1).clamp_max(len(squares_R)).tolist()
    return ranks


def _count_to_energy(squares_R: Tensor, energy: float) -> int:
    return len(squares_R) if energy == 1 else find_energy_ranks(squares_R, [energy])[0]


def _check_delta(delta: Tensor, rank: int | None, energy: float) -> None:
    if delta.ndim != 2:
        raise ValueError(f"delta must be a matrix, got shape {tuple(delta.shape)}")
    if delta.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"delta must be float32 or float64, got {delta.dtype}")
    if rank is not None and rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    if not 0 < energy <= 1:
        raise ValueError(f"energy must be in (0, 1], got {energy}")


def _find_scale(matrix_MN: Tensor) -> float:
    """Returns what float64 numbers are divided by so that their squares fit; float32 numbers square without it."""
    return float(matrix_MN.abs().max()) if matrix_MN.dtype == torch.float64 else 1.0


def _decompose_gram(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the singular values, falling, and the vectors on the side of the Gram matrix."""
    with _limit_threads(gram):
        squares, vectors = torch.linalg.eigh(gram)
    return squares.flip(0).clamp_min(0).sqrt(), vectors.flip(1)


@contextmanager
def _limit_threads(gram: Tensor) -> Iterator[None]:
    """Takes one thread for a small matrix on the CPU: on a busy machine, more wait for each other most of the time."""
    num_threads = torch.get_num_threads()
    if gram.is_cuda or num_threads == 1 or len(gram) > _ONE_THREAD_ROWS:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _refine(tall: Tensor, scale: float, values: Tensor, vectors: Tensor, num_large: int) -> tuple[Tensor, Tensor]:
    """Finds the small singular values and their vectors anew, in the complement of the large ones."""
    small = vectors[:, num_large:]
    rest = _multiply(tall, small / scale)
    small_values, turned = _decompose_gram(rest.mT @ rest)
    return torch.cat([values[:num_large], small_values]), torch.cat([vectors[:, :num_large], small @ turned], dim=1)


def _carry_over(tall: Tensor, scale: float, values: Tensor, vectors: Tensor, num_large: int) -> Tensor:
    """Returns the vectors on the other side, u = Δv / σ; small ones are kept orthogonal to the large ones."""
    carried = _multiply(tall, vectors / (values * scale))
    large, small = carried[:, :num_large], carried[:, num_large:]
    small -= large @ (large.mT @ small)
    return carried


def _multiply(tall: Tensor, right: Tensor) -> Tensor:
    return torch.cat([rows.double() @ right for rows in tall.split(_CHUNK_ROWS)])


def _sum_of_products(tall: Tensor, scale: float) -> Tensor:
    """Returns AᵀA / scale² in float64 for a tall A; only its lower triangle is filled, which is all that eigh reads."""
    size = tall.shape[1]
    gram = torch.zeros(size, size, dtype=torch.float64, device=tall.device)
    width = max(_MIN_STRIP, -(-size // 4))  # in strips, as a symmetric product needs little more than half the work
    for rows in tall.split(_CHUNK_ROWS):
        block = rows.double() if scale == 1 else rows.double() / scale
        for start in range(0, size, width):
            gram[start:, start : start + width] += block[:, start:].mT @ block[:, start : start + width]
    return gram
