"""Treats one matrix in every variant from one decomposition of its delta and one product an update and basis.

Shapes in this file, as seen from the subspace's side: M = the dimension it lies in, N = the other, K = directions,
S = sampled columns. The energy in the first k directions is a cumulative sum over the norms of the coordinates' rows,
for every k at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safety_lightning.methods.delta import MatrixDelta, name_source
from safety_lightning.methods.rivals import Rivals, compute_gains, compute_score
from safety_lightning.methods.variants import Variant
from safety_lightning.projection.operators import compute_chance, sum_squares
from safety_lightning.subspaces import Source, rank_from_fraction


@dataclass(frozen=True, kw_only=True)
class UpdateSums:
    """What a variant makes of the update T of one matrix; squared norms and inner products add up over matrices.

    Attributes:
        rank: Directions of the subspace; 0 for a method without one and where the delta is zero.
        chance: Energy share that a random update would keep; None for a method without subspace.
        is_capped: Whether the delta has fewer directions than were asked for.
        is_changed: Whether the method treated this matrix; rivals leave some as they are.
        total: ‖T‖².
        kept: ‖K‖² of the kept update K.
        dot_update: ⟨K, T⟩.
        dot_delta: ⟨K, Δ⟩.
        delta: ‖Δ‖².
        stored: Squared norm of the update after storing.
        wrong: Squared norm of its part on the wrong side; None for a method without one.
        score: The cosine that Safe LoRA and SafeMERGE choose by; None for other methods.
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
        rivals: Settings of the rival methods.
        safety_MN: Update of the safety-tuned model, which SafeMERGE needs.
        vector_MN: The safety vector of RESTA; None for the delta.
        is_vector: Whether the tensor is 1-D, which Safe LoRA and SafeMERGE leave alone.

    Attributes:
        is_worst: Whether Safe LoRA by number chooses this matrix, which is known when all have been seen.
    """

    def __init__(
        self,
        delta: MatrixDelta,
        update_MN: Tensor,
        *,
        rivals: Rivals | None = None,
        safety_MN: Tensor | None = None,
        vector_MN: Tensor | None = None,
        is_vector: bool = False,
    ) -> None:
        self.delta = delta
        self.update_MN = update_MN
        self.rivals = rivals or Rivals()
        self.safety_MN = safety_MN
        self.vector_MN = delta.delta_MN if vector_MN is None else vector_MN
        self.is_vector = is_vector
        self.is_worst = True
        self.total = float(sum_squares(update_MN))
        self.dot_delta = _dot(update_MN, delta.delta_MN)
        self._coordinates: dict[Source, Tensor] = {}
        self._energy_to: dict[Source, list[float]] = {}
        self._dot_to: dict[Source, list[float]] = {}
        self._samples: dict[Source, tuple[Tensor, Tensor, Tensor]] = {}

    @property
    def score(self) -> float:
        """The cosine between the update and C times it (Safe LoRA); NaN where one of them is zero."""
        gains_K = compute_gains(self.delta.decomposition.singular_values, self.delta.norm)
        energies_K = _square_rows(self.find_coordinates("top_k"))
        return compute_score(energies_K, gains_K, self.total) if len(gains_K) else float("nan")

    def find_coordinates(self, source: Source) -> Tensor:
        """Returns the update's coordinates in the basis behind a source, float32, ``(K, N)``; found once."""
        basis: Source = "random" if source == "random" else "top_k"
        if basis not in self._coordinates:
            self._coordinates[basis] = self.delta.bases[basis].mT @ self.update_MN
        return self._coordinates[basis]

    def sum_up(self, variant: Variant, stored: tuple[float, float | None]) -> UpdateSums:
        """Returns the sums of one variant.

        Args:
            variant: The variant.
            stored: What `measure_stored` or `sample_stored` found.
        """
        is_split = variant.component is not None
        rank = self.delta.find_rank(variant) if is_split else 0
        is_changed, kept, dot_update, dot_delta = (
            self._sum_split(variant, rank) if is_split else self._sum_rival(variant)
        )
        chance = None
        if variant.component is not None:
            chance = compute_chance(rank, len(self.update_MN), component=variant.component)
        return UpdateSums(
            rank=rank,
            chance=chance,
            is_capped=0 < rank < self._find_wanted(variant),
            is_changed=is_changed,
            total=self.total,
            kept=kept,
            dot_update=dot_update,
            dot_delta=dot_delta,
            delta=self.delta.norm**2,
            stored=stored[0],
            wrong=stored[1],
            score=self.score if variant.source in ("safe_lora", "safe_merge") else None,
        )

    def iterate_kept(self, variants: Sequence[Variant]) -> Iterator[tuple[Variant, Tensor]]:
        """Yields variants with their kept update ``(M, N)``, float32; a larger rank adds to what a smaller one had."""
        splits = [one for one in variants if one.component is not None]
        for source in dict.fromkeys(name_source(one) for one in splits):
            inside_MN, before = torch.zeros_like(self.update_MN), 0
            chosen = [(self.delta.find_rank(one), one) for one in splits if name_source(one) == source]
            for rank, variant in sorted(chosen, key=lambda pair: pair[0]):
                added = slice(before, rank)
                rows_KN = self.delta.pick_rows(self.find_coordinates(source), source, added)
                inside_MN.addmm_(self.delta.pick_columns(source, added), rows_KN)
                before = rank
                yield variant, inside_MN if variant.component == "parallel" else self.update_MN - inside_MN
        for variant in variants:
            if variant.component is None:
                yield variant, self.keep_rival(variant)

    def keep_rival(self, variant: Variant) -> Tensor:
        """Returns the update that a rival method keeps, float32, ``(M, N)``."""
        if variant.source == "resta":
            return self.update_MN + self.rivals.resta.scale * self.vector_MN
        if not self._is_chosen(variant):
            return self.update_MN
        if variant.source == "safe_merge":
            weight = self.rivals.safe_merge.weight
            merged_MN = weight * self.update_MN
            return merged_MN if self.safety_MN is None else merged_MN.add_(self.safety_MN, alpha=1 - weight)
        gains_K = compute_gains(self.delta.decomposition.singular_values, self.delta.norm).float()
        filtered_MN: Tensor = self.delta.bases["top_k"] @ (gains_K.unsqueeze(1) * self.find_coordinates("top_k"))
        return filtered_MN

    def measure_stored(self, variant: Variant, stored_MN: Tensor, columns_S: Tensor) -> tuple[float, float | None]:
        """Measures the update as it is stored: its squared norm, and that of its part on the wrong side.

        The latter is rounding, alike in all columns, so that a few of them tell it.

        Args:
            variant: The variant.
            stored_MN: Stored weights, rounded to their dtype, minus the reference.
            columns_S: Which columns tell the part on the wrong side.
        """
        scale = stored_MN.shape[1] / len(columns_S)
        wrong = self._measure_wrong(variant, stored_MN[:, columns_S])
        return float(sum_squares(stored_MN)), None if wrong is None else scale * wrong

    def estimate_stored(
        self, variant: Variant, columns_S: Tensor, round_weights: Callable[[Tensor], Tensor]
    ) -> tuple[float, float | None]:
        """Estimates what `measure_stored` would measure, for a variant of a split that is not saved.

        Args:
            variant: The variant.
            columns_S: Which columns tell.
            round_weights: Rounds weights to their storage dtype and back to float32.
        """
        source, rank = name_source(variant), self.delta.find_rank(variant)
        reference_MS, update_MS, coordinates_KS = self._take_sample(source, columns_S)
        kept_MS = self.delta.expand(self.delta.restrict(coordinates_KS, source, rank), source)
        if variant.component == "orthogonal":
            kept_MS = update_MS - kept_MS
        stored_MS = round_weights(reference_MS + kept_MS) - reference_MS
        scale = self.update_MN.shape[1] / len(columns_S)
        wrong = self._measure_wrong(variant, stored_MS)
        added = float(sum_squares(stored_MS)) - float(sum_squares(kept_MS))
        kept = self._sum_split(variant, rank)[1]
        return max(0.0, kept + scale * added), None if wrong is None else scale * wrong

    def _take_sample(self, source: Source, columns_S: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns some columns of reference, update and coordinates; taken once for all variants of a source."""
        if source not in self._samples:
            wholes = (self.delta.reference_MN, self.update_MN, self.find_coordinates(source))
            reference_MS, update_MS, coordinates_KS = (whole[:, columns_S].contiguous() for whole in wholes)
            self._samples[source] = reference_MS, update_MS, coordinates_KS
        return self._samples[source]

    def _sum_split(self, variant: Variant, rank: int) -> tuple[bool, float, float, float]:
        source = name_source(variant)
        if source not in self._energy_to:
            coordinates_KN = self.find_coordinates(source)
            others_KN = self.delta.find_coordinates("random" if source == "random" else "top_k")
            energies_K, dots_K = _square_rows(coordinates_KN), _dot_rows(coordinates_KN, others_KN)
            if source == "random_k":  # a permutation of the same directions
                energies_K, dots_K = energies_K[self.delta.order], dots_K[self.delta.order]
            self._energy_to[source], self._dot_to[source] = _accumulate(energies_K), _accumulate(dots_K)
        inside = min(self._energy_to[source][rank], self.total)
        dot = self._dot_to[source][rank]
        if variant.component == "orthogonal":
            inside, dot = self.total - inside, self.dot_delta - dot
        return rank > 0, inside, inside, dot  # a projection's inner product with the update is its own energy

    def _sum_rival(self, variant: Variant) -> tuple[bool, float, float, float]:
        if variant.source != "resta" and not self._is_chosen(variant):
            return False, self.total, self.total, self.dot_delta
        kept_MN = self.keep_rival(variant)
        return True, float(sum_squares(kept_MN)), _dot(kept_MN, self.update_MN), _dot(kept_MN, self.delta.delta_MN)

    def _find_wanted(self, variant: Variant) -> int:
        is_by_rank = variant.component is not None and variant.source != "energy"
        return rank_from_fraction(variant.fraction, *self.delta.shape) if is_by_rank and variant.fraction else 0

    def _is_chosen(self, variant: Variant) -> bool:
        if self.is_vector or self.delta.norm == 0 or self.total == 0:
            return False
        if variant.source == "safe_lora" and self.rivals.safe_lora.num_worst is not None:
            return self.is_worst
        own = self.rivals.safe_lora if variant.source == "safe_lora" else self.rivals.safe_merge
        return self.score < own.threshold

    def _measure_wrong(self, variant: Variant, stored_MN: Tensor) -> float | None:
        if variant.component is None:
            return None
        source, rank = name_source(variant), self.delta.find_rank(variant)
        basis_MK = self.delta.bases["random" if source == "random" else "top_k"]
        needed_MK = basis_MK if source == "random_k" else basis_MK[:, :rank]
        inside_KS = self.delta.restrict(needed_MK.mT @ stored_MN, source, rank)
        if variant.component == "orthogonal":
            return float(sum_squares(inside_KS))
        return float(sum_squares(stored_MN - self.delta.expand(inside_KS, source)))


def _square_rows(matrix: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64)
    return norms.square()


def _dot_rows(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).sum(dim=1, dtype=torch.float64)


def _dot(first: Tensor, second: Tensor) -> float:
    return float((first * second).sum(dtype=torch.float64))


def _accumulate(values_K: Tensor) -> list[float]:
    return [0.0, *values_K.cumsum(0).tolist()]
