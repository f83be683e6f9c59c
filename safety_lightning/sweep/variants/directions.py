"""The directions of every source and draw of one matrix, kept on a shelf.

Shapes in this file, as seen from the subspace's side: M = the dimension it lies in, N = the other, K = directions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from safety_lightning.checkpoints import MatrixSlot
from safety_lightning.methods.delta import BasisRecipe, Decomposer, MatrixDelta, draw_directions, span_bases
from safety_lightning.subspaces import Decomposition, Side, Source, draw_order, rank_from_fraction
from safety_lightning.sweep.variants.shelf import Shelf
from safety_lightning.sweep.variants.weights import KeptWeights

MODES = "modes"


class Directions:
    """Finds or makes directions. All singular vectors are made at once, so that they do not depend on what is asked.

    Args:
        weights: What deltas are taken from.
        shelf: Where directions are kept.
        side: The side that they lie on.
        largest_fraction: The largest fraction that will be asked for of a random source.
        decompose: What decomposes deltas.
    """

    def __init__(
        self, weights: KeptWeights, shelf: Shelf, *, side: Side, largest_fraction: float, decompose: Decomposer
    ) -> None:
        self.weights = weights
        self.shelf = shelf
        self.side = side
        self.largest_fraction = largest_fraction
        self._decompose = decompose
        self._found: dict[str, Decomposition] = {}
        self._deltas: dict[tuple[str | None, int, str], MatrixDelta] = {}
        self._orders: dict[tuple[int, str], Tensor] = {}

    def describe(self, slot: MatrixSlot, source: Source | None, seed: int) -> MatrixDelta:
        """Returns what is known of a delta without its numbers: its matrices are on the meta device."""
        key = source, seed, slot.name
        if key not in self._deltas:
            self._deltas[key] = self._describe(slot, source, seed)
        return self._deltas[key]

    def pick(self, slot: MatrixSlot, source: Source, seed: int, ranks: slice) -> Tensor:
        """Returns some of a source's directions, float32, ``(M, K)``, on the device."""
        if source == "random":
            return self._find_random(slot, seed)[:, ranks]
        modes_MK = self._find_modes(slot)
        return modes_MK[:, ranks] if source == "top_k" else modes_MK[:, self._find_order(slot, seed)[ranks]]

    def _describe(self, slot: MatrixSlot, source: Source | None, seed: int) -> MatrixDelta:
        norm = self.weights.measure_delta(slot)
        rows, columns = (slot.rows, slot.columns) if self.side == "left" else (slot.columns, slot.rows)
        matrix_MN = torch.empty(rows, columns, device="meta")
        if source in ("top_k", "random_k") and slot.name not in self._found:
            self._make_modes(slot)
        nothing = Decomposition(matrix_MN[:, :0], torch.zeros(0, dtype=torch.float64), "zero")
        found = nothing if source in (None, "random") else self._found[slot.name]
        bases: dict[Source, Tensor] = {"top_k": matrix_MN.new_empty(rows, found.rank)}
        if source == "random":
            bases["random"] = matrix_MN.new_empty(rows, self._count_random(slot))
        order = self._find_order(slot, seed) if source == "random_k" else None
        shape = slot.rows, slot.columns
        return MatrixDelta(
            shape=shape, reference_MN=matrix_MN, delta_MN=matrix_MN, decomposition=found, bases=bases, order=order,
            norm=norm, name=slot.name, side=self.side,
        )  # fmt: skip

    def _find_modes(self, slot: MatrixSlot) -> Tensor:
        found = self.shelf.find(MODES, slot.name)
        return self._make_modes(slot) if found is None else found

    def _make_modes(self, slot: MatrixSlot) -> Tensor:
        recipe = BasisRecipe(sources=["top_k"], largest_fraction=1.0, need_all=True, side=self.side, seed=0)
        delta = self.weights.read_delta(slot)
        spanned = span_bases(slot, delta, delta, recipe, self._decompose)
        values, method = spanned.decomposition.singular_values.cpu(), spanned.decomposition.method
        modes_MK = spanned.bases["top_k"]
        self._found[slot.name] = Decomposition(modes_MK.to("meta"), values, method)
        return self.shelf.keep(MODES, slot.name, modes_MK)

    def _find_random(self, slot: MatrixSlot, seed: int) -> Tensor:
        group = name_random(seed)
        found = self.shelf.find(group, slot.name)
        if found is None:
            drawn = draw_directions(slot, self._count_random(slot), side=self.side, seed=seed)
            found = self.shelf.keep(group, slot.name, drawn.to(self.shelf.device))
        return found

    def _count_random(self, slot: MatrixSlot) -> int:
        wanted = rank_from_fraction(self.largest_fraction, slot.rows, slot.columns)
        return wanted if self.weights.measure_delta(slot) > 0 else 0

    def _find_order(self, slot: MatrixSlot, seed: int) -> Tensor:
        key = seed, slot.name
        if key not in self._orders:
            order = draw_order(self._found[slot.name].rank, seed=seed, name=slot.name)
            self._orders[key] = order.to(self.shelf.device)
        return self._orders[key]


def name_random(seed: int) -> str:
    """Returns the group of the directions drawn from a seed."""
    return f"random:{seed}"
