"""One matrix's update as a method sees it, and what a method keeps of it.

A method keeps K = own · T + inside · U Uᵀ T + extra of an update T. Norms, inner products, chance, leak, dense weights
and adapter factors all follow from that: of one decomposition of the delta and one product per update and basis, for
every rank at once.

Shapes in this file, as seen from the subspace's side: M = the dimension it lies in, N = the other, K = directions,
S = sampled columns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from safety_lightning.methods.delta import MatrixDelta
from safety_lightning.projection import Component, sum_squares
from safety_lightning.subspaces import Source

Key = TypeVar("Key")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a method keeps of the update T of one matrix: own · T + inside · U Uᵀ T + extra.

    Attributes:
        own: Factor of the whole update.
        inside: Factor of the update's part in the subspace; 0 for a method without subspace.
        source: Where the subspace's directions come from.
        rank: How many directions it has; 0 where the delta is zero.
        is_capped: Whether the delta has fewer directions than were asked for.
        extra: Gives any further matrix, float32, ``(M, N)``. It is called when the matrix is needed, for many methods
            at once would hold many matrices.
        is_changed: Whether the method treats this matrix; some leave matrices as they were fine-tuned.
    """

    own: float = 0.0
    inside: float = 0.0
    source: Source = "top_k"
    rank: int = 0
    is_capped: bool = False
    extra: Callable[[], Tensor] | None = None
    is_changed: bool = True

    @property
    def component(self) -> Component | None:
        """The component that the kept update lies in; None where it lies in neither, or may."""
        if self.extra is not None or self.inside == 0:
            return None
        if self.own == 0:
            return "parallel"
        return "orthogonal" if self.own == -self.inside else None

    def sum_energy(self, total: float, inside: float) -> float:
        """Returns ‖K‖² without extra, from ‖T‖² and ‖Uᵀ T‖²."""
        return self.own**2 * total + (2 * self.own * self.inside + self.inside**2) * inside


UNTREATED = Kept(own=1.0, is_changed=False)
"""The update as it was fine-tuned."""


def keep_plainly(kept: Kept, update_MN: Tensor, basis_MK: Tensor) -> Tensor:
    """Returns the kept update by its definition: the plain form of what `MatrixUpdate` does for many ranks at once.

    Args:
        kept: What is kept.
        update_MN: The update, ``(M, N)``.
        basis_MK: Orthonormal columns of the subspace, ``(M, K)``.
    """
    kept_MN = kept.own * update_MN + kept.inside * (basis_MK @ (basis_MK.mT @ update_MN))
    return kept_MN if kept.extra is None else kept_MN + kept.extra()


@dataclass(frozen=True, kw_only=True)
class UpdateSums:
    """What a method makes of the update T of one matrix; squared norms and inner products add up over matrices.

    Attributes:
        rank: Directions of the subspace; 0 for a method without one and where the delta is zero.
        chance: Energy share that a random update would keep; None for a method without subspace.
        is_capped: Whether the delta has fewer directions than were asked for.
        is_changed: Whether the method treated this matrix.
        total: ‖T‖².
        kept: ‖K‖² of the kept update K.
        dot_update: ⟨K, T⟩.
        dot_delta: ⟨K, Δ⟩.
        delta: ‖Δ‖².
        stored: Squared norm of the update after storing.
        wrong: Squared norm of its part on the wrong side; None for a method without one.
        score: What the method chooses matrices by; None for a method that does not.
    """

    rank: int
    chance: float | None
    is_capped: bool
    is_changed: bool
    total: float
    kept: float
    dot_update: float
    dot_delta: float
    delta: float
    stored: float
    wrong: float | None
    score: float | None


class MatrixUpdate:
    """The update of one matrix by one finetuned model, seen from every basis of its delta.

    Args:
        delta: The delta.
        update_MN: The update, float32, on the delta's device.
        safety_MN: Update of the safety-tuned model, None without one or where it trained nothing.
        vector_MN: Reference − unaligned checkpoint; None for the delta.
        is_vector: Whether the tensor is 1-D.
    """

    def __init__(
        self,
        delta: MatrixDelta,
        update_MN: Tensor,
        *,
        safety_MN: Tensor | None = None,
        vector_MN: Tensor | None = None,
        is_vector: bool = False,
    ) -> None:
        self.delta = delta
        self.update_MN = update_MN
        self.safety_MN = safety_MN
        self.vector_MN = delta.delta_MN if vector_MN is None else vector_MN
        self.is_vector = is_vector
        self._coordinates: dict[Source, Tensor] = {}
        self._sums_to: dict[Source, tuple[list[float], list[float]]] = {}
        self._samples: dict[Source, tuple[Tensor, Tensor, Tensor]] = {}

    @functools.cached_property
    def total(self) -> float:
        """‖T‖²."""
        return float(sum_squares(self.update_MN))

    @functools.cached_property
    def _dot_delta(self) -> float:
        return _dot(self.update_MN, self.delta.delta_MN)

    def find_coordinates(self, source: Source) -> Tensor:
        """Returns the update's coordinates in the basis behind a source, float32, ``(K, N)``; computed once."""
        basis: Source = "random" if source == "random" else "top_k"
        if basis not in self._coordinates:
            self._coordinates[basis] = self.delta.bases[basis].mT @ self.update_MN
        return self._coordinates[basis]

    def sum_up(self, kept: Kept, stored: tuple[float, float | None], *, score: float | None = None) -> UpdateSums:
        """Returns the sums of one method.

        Args:
            kept: What the method keeps.
            stored: What `measure_stored` or `estimate_stored` found.
            score: What the method chooses matrices by.
        """
        if kept.extra is None:
            inside, dot = self._sum_inside(kept)
            energy = kept.sum_energy(self.total, inside)
            dot_update = kept.own * self.total + kept.inside * inside
            dot_delta = kept.own * self._dot_delta + kept.inside * dot
        else:
            kept_MN = self.expand(kept)
            energy, dot_update = float(sum_squares(kept_MN)), _dot(kept_MN, self.update_MN)
            dot_delta = _dot(kept_MN, self.delta.delta_MN)
        has_subspace = kept.extra is None and kept.inside != 0
        return UpdateSums(
            rank=kept.rank,
            chance=kept.sum_energy(1.0, kept.rank / len(self.update_MN)) if has_subspace else None,
            is_capped=kept.is_capped,
            is_changed=kept.is_changed,
            total=self.total,
            kept=energy,
            dot_update=dot_update,
            dot_delta=dot_delta,
            delta=self.delta.norm**2,
            stored=stored[0],
            wrong=stored[1],
            score=score,
        )

    def expand(self, kept: Kept) -> Tensor:
        """Returns a kept update, float32, ``(M, N)``."""
        [(_, kept_MN)] = self.iterate_kept([(None, kept)])
        return kept_MN

    def iterate_kept(self, keeps: Sequence[tuple[Key, Kept]]) -> Iterator[tuple[Key, Tensor]]:
        """Yields kept updates, float32, ``(M, N)``, by source and rank: a larger rank adds to what a smaller one had.

        Args:
            keeps: What is kept, each under a key by which it is yielded.
        """
        of_subspace = [(key, kept) for key, kept in keeps if kept.inside != 0]
        for source in dict.fromkeys(kept.source for _, kept in of_subspace):
            inside_MN, before = torch.zeros_like(self.update_MN), 0
            own = [pair for pair in of_subspace if pair[1].source == source]
            for key, kept in sorted(own, key=lambda pair: pair[1].rank):
                added = slice(before, kept.rank)
                rows_KN = self.delta.pick_rows(self.find_coordinates(source), source, added)
                inside_MN.addmm_(self.delta.pick_columns(source, added), rows_KN)
                before = kept.rank
                yield key, _combine(kept, self.update_MN, inside_MN)
        for key, kept in keeps:
            if kept.inside == 0:
                yield key, _combine(kept, self.update_MN, None)

    def keep_factor(self, kept: Kept, factor_MR: Tensor) -> Tensor:
        """Treats one factor of an adapter's update instead of the update: both have the same subspace.

        Args:
            kept: What is kept, without extra.
            factor_MR: The factor on the subspace's side, float32, ``(M, R)``.
        """
        basis_MK = self.delta.pick_columns(kept.source, slice(0, kept.rank))
        inside_MR = None if kept.inside == 0 else basis_MK @ (basis_MK.mT @ factor_MR)
        return _combine(kept, factor_MR, inside_MR)

    def measure_stored(self, kept: Kept, stored_MN: Tensor, columns_S: Tensor) -> tuple[float, float | None]:
        """Measures the update as it is stored: its squared norm, and that of its part on the wrong side.

        The latter is rounding, alike in all columns, so that a few of them tell it.

        Args:
            kept: What was kept.
            stored_MN: Stored weights, rounded to their dtype, minus the reference.
            columns_S: Which columns tell the part on the wrong side.
        """
        scale = stored_MN.shape[1] / len(columns_S)
        wrong = self._measure_wrong(kept, stored_MN[:, columns_S])
        return float(sum_squares(stored_MN)), None if wrong is None else scale * wrong

    def estimate_stored(
        self, kept: Kept, columns_S: Tensor, round_weights: Callable[[Tensor], Tensor]
    ) -> tuple[float, float | None]:
        """Estimates what `measure_stored` would measure, for weights that are not stored.

        Args:
            kept: What is kept.
            columns_S: Which columns tell.
            round_weights: Rounds weights to their storage dtype and back to float32.
        """
        if kept.component is None:
            return self.total, None
        reference_MS, update_MS, coordinates_KS = self._take_sample(kept.source, columns_S)
        inside_MS = self.delta.expand(self.delta.restrict(coordinates_KS, kept.source, kept.rank), kept.source)
        kept_MS = _combine(kept, update_MS, inside_MS)
        stored_MS = round_weights(reference_MS + kept_MS) - reference_MS
        scale = self.update_MN.shape[1] / len(columns_S)
        wrong = self._measure_wrong(kept, stored_MS)
        added = float(sum_squares(stored_MS)) - float(sum_squares(kept_MS))
        energy = kept.sum_energy(self.total, self._sum_inside(kept)[0])
        return max(0.0, energy + scale * added), None if wrong is None else scale * wrong

    def _take_sample(self, source: Source, columns_S: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns some columns of reference, update and coordinates; taken once for all ranks of a source."""
        if source not in self._samples:
            wholes = (self.delta.reference_MN, self.update_MN, self.find_coordinates(source))
            reference_MS, update_MS, coordinates_KS = (whole[:, columns_S].contiguous() for whole in wholes)
            self._samples[source] = reference_MS, update_MS, coordinates_KS
        return self._samples[source]

    def _sum_inside(self, kept: Kept) -> tuple[float, float]:
        """Returns ‖Uᵀ T‖² and ⟨U Uᵀ T, Δ⟩ by a cumulative sum over the norms of the coordinates' rows."""
        if kept.inside == 0:
            return 0.0, 0.0
        source = kept.source
        if source not in self._sums_to:
            coordinates_KN = self.find_coordinates(source)
            others_KN = self.delta.find_coordinates("random" if source == "random" else "top_k")
            energies_K, dots_K = square_rows(coordinates_KN), _dot_rows(coordinates_KN, others_KN)
            if source == "random_k":  # a permutation of the same directions
                energies_K, dots_K = energies_K[self.delta.order], dots_K[self.delta.order]
            self._sums_to[source] = _accumulate(energies_K), _accumulate(dots_K)
        energies_to, dots_to = self._sums_to[source]
        return min(energies_to[kept.rank], self.total), dots_to[kept.rank]

    def _measure_wrong(self, kept: Kept, stored_MN: Tensor) -> float | None:
        if kept.component is None:
            return None
        basis_MK = self.delta.bases["random" if kept.source == "random" else "top_k"]
        needed_MK = basis_MK if kept.source == "random_k" else basis_MK[:, : kept.rank]
        inside_KS = self.delta.restrict(needed_MK.mT @ stored_MN, kept.source, kept.rank)
        if kept.component == "orthogonal":
            return float(sum_squares(inside_KS))
        return float(sum_squares(stored_MN - self.delta.expand(inside_KS, kept.source)))


def square_rows(matrix: Tensor) -> Tensor:
    """Returns the squared norm of every row, float64."""
    norms: Tensor = torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64)
    return norms.square()


def _combine(kept: Kept, update: Tensor, inside: Tensor | None) -> Tensor:
    """Returns own · update + inside · (its part in the subspace) + extra; what is zero is not computed."""
    found = None if kept.own == 0 else update if kept.own == 1 else kept.own * update
    if inside is not None and found is not None:
        found = torch.add(found, inside, alpha=kept.inside)
    elif inside is not None:
        found = inside if kept.inside == 1 else kept.inside * inside
    if kept.extra is not None:
        found = kept.extra() if found is None else found + kept.extra()
    return torch.zeros_like(update) if found is None else found


def _dot_rows(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(dim=1, dtype=torch.float64)


def _dot(first: Tensor, second: Tensor) -> float:
    return float((first * second).sum(dtype=torch.float64))


def _accumulate(values_K: Tensor) -> list[float]:
    return [0.0, *values_K.cumsum(0).tolist()]
