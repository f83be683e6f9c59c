"""Spans every basis of one matrix's delta at once, as `span_subspace` would one by one.

Shapes in this file, as seen from the subspace's side: M = the dimension it lies in, N = the other, K = directions,
S = columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from safety_lightning.checkpoints import MatrixSlot
from safety_lightning.subspaces import (
    Decomposition,
    Side,
    Source,
    draw_haar_basis,
    draw_order,
    find_energy_ranks,
    rank_from_fraction,
)
from safety_lightning.system.randomness import seed_generator


class Decomposer(Protocol):
    """What decomposes a delta: `decompose_delta`, or a library that keeps what it made."""

    def __call__(self, delta: Tensor, *, side: Side = "left", rank: int | None = None) -> Decomposition:
        """Decomposes a delta."""


@dataclass(frozen=True, kw_only=True)
class BasisRecipe:
    """Which bases of a delta are wanted.

    Attributes:
        sources: Where directions come from.
        largest_fraction: The largest fraction that will be asked for.
        need_all: Whether a method needs every direction of the delta.
        side: The side that bases lie on.
        seed: Seed of the random sources.
    """

    sources: Sequence[Source]
    largest_fraction: float
    need_all: bool
    side: Side
    seed: int

    @property
    def need_modes(self) -> bool:
        """Whether the delta must be decomposed."""
        return self.need_all or "top_k" in self.sources or "random_k" in self.sources


@dataclass(frozen=True, kw_only=True)
class MatrixDelta:
    """The delta of one matrix, its directions and its coordinates in them.

    Attributes:
        shape: Rows and columns of the weights, which fractions are of.
        reference_MN: Reference weights, float32.
        delta_MN: Delta, float32.
        decomposition: Its decomposition; all directions where a source or a method needs them.
        bases: Orthonormal columns of ``top_k`` and ``random``, float32, ``(M, K)``.
        order: The permutation of `random_k`, which its directions are the leading ones by; None without that source.
        norm: Frobenius norm of the delta.
        name: Name of the matrix; see `MatrixSlot.name`.
        side: The side that its rows lie on here.
    """

    shape: tuple[int, int]
    reference_MN: Tensor
    delta_MN: Tensor
    decomposition: Decomposition
    bases: Mapping[Source, Tensor]
    order: Tensor | None = None
    norm: float
    name: str
    side: Side
    _coordinates: dict[Source, Tensor] = field(default_factory=dict, repr=False)

    def find_coordinates(self, basis: Source) -> Tensor:
        """Returns the delta's coordinates in ``top_k`` or ``random``, float32, ``(K, N)``; found once."""
        if basis not in self._coordinates:
            self._coordinates[basis] = self.bases[basis].mT @ self.delta_MN
        return self._coordinates[basis]

    def pick_columns(self, source: Source, ranks: slice) -> Tensor:
        """Returns some of a source's directions, float32, ``(M, K)``; ``random_k`` takes the leading by its order."""
        if source != "random_k":
            return self.bases[source][:, ranks]
        assert self.order is not None
        return self.bases["top_k"][:, self.order[ranks]]

    def pick_rows(self, coordinates_KN: Tensor, source: Source, ranks: slice) -> Tensor:
        """Returns the coordinates that belong to `pick_columns`."""
        if source != "random_k":
            return coordinates_KN[ranks]
        assert self.order is not None
        return coordinates_KN[self.order[ranks]]

    def restrict(self, coordinates_KS: Tensor, source: Source, rank: int) -> Tensor:
        """Returns the coordinates that lie in a subspace; for ``random_k`` the others are zero, which copies least."""
        if source != "random_k":
            return coordinates_KS[:rank]
        assert self.order is not None
        is_inside = torch.zeros(len(coordinates_KS), 1, dtype=coordinates_KS.dtype, device=coordinates_KS.device)
        is_inside[self.order[:rank]] = 1
        return coordinates_KS * is_inside

    def expand(self, coordinates_KS: Tensor, source: Source) -> Tensor:
        """Returns the matrix of restricted coordinates, ``(M, S)``."""
        basis_MK = self.bases["random" if source == "random" else "top_k"]
        expanded_MS: Tensor = basis_MK[:, : len(coordinates_KS)] @ coordinates_KS
        return expanded_MS

    def count_directions(self, source: Source) -> int:
        """Returns how many directions a source has."""
        if source != "random_k":
            return self.bases[source].shape[1]
        return 0 if self.order is None else len(self.order)

    def choose_rank(self, source: Source, fraction: float) -> tuple[int, bool]:
        """Returns how many directions a fraction of the smaller dimension takes, at most as many as there are.

        Returns:
            The rank, and whether the delta has fewer directions than were asked for (but any).
        """
        wanted = rank_from_fraction(fraction, *self.shape)
        rank = min(wanted, self.count_directions(source))
        return rank, 0 < rank < wanted

    def choose_energy_rank(self, share: float) -> int:
        """Returns how many leading directions hold a share of the delta's energy."""
        squares_K = self.decomposition.singular_values.square()
        return find_energy_ranks(squares_K, [share], total=self.norm**2)[0]


def span_bases(
    slot: MatrixSlot, reference: Tensor, delta: Tensor, recipe: BasisRecipe, decompose: Decomposer
) -> MatrixDelta:
    """Spans the wanted bases of one delta.

    Args:
        slot: The matrix.
        reference: Reference weights, float32, ``(rows, columns)``, on the device where to work.
        delta: reference − base, likewise.
        recipe: What is wanted.
        decompose: What decomposes it.

    Returns:
        The delta with its bases; matrices are turned so that their rows lie on the wanted side.
    """
    delta_MN = delta if recipe.side == "left" else delta.mT
    norm = float(torch.linalg.vector_norm(delta, dtype=torch.float64))
    wanted = rank_from_fraction(recipe.largest_fraction, *delta.shape)
    needs_every = recipe.need_all or "random_k" in recipe.sources
    found = _decompose(delta, recipe, None if needs_every else wanted, decompose)
    bases: dict[Source, Tensor] = {"top_k": found.vectors.to(torch.float32)}
    order = None
    if "random_k" in recipe.sources:
        order = draw_order(found.rank, seed=recipe.seed, name=slot.name).to(delta.device)
        order = order[:wanted]
    if "random" in recipe.sources:
        width = wanted if norm > 0 else 0
        bases["random"] = draw_directions(slot, width, side=recipe.side, seed=recipe.seed).to(delta.device)
    return MatrixDelta(
        shape=(slot.rows, slot.columns),
        reference_MN=reference if recipe.side == "left" else reference.mT,
        delta_MN=delta_MN,
        decomposition=Decomposition(bases["top_k"], found.singular_values, found.method),
        bases=bases,
        order=order,
        norm=norm,
        name=slot.name,
        side=recipe.side,
    )


def draw_directions(slot: MatrixSlot, width: int, *, side: Side, seed: int) -> Tensor:
    """Draws the directions of ``random`` for one matrix, float32, ``(M, width)``, on the CPU."""
    num_rows = slot.rows if side == "left" else slot.columns
    return draw_haar_basis(num_rows, width, generator=seed_generator(f"{seed}:{slot.name}"))


def _decompose(delta: Tensor, recipe: BasisRecipe, rank: int | None, decompose: Decomposer) -> Decomposition:
    if recipe.need_modes:
        return decompose(delta, side=recipe.side, rank=rank)
    num_rows = delta.shape[0] if recipe.side == "left" else delta.shape[1]
    return Decomposition(delta.new_zeros(num_rows, 0), delta.new_zeros(0, dtype=torch.float64), "zero")
