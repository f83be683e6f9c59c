"""The part of an update that lies in a subspace, from one fraction to the next by the difference alone.

U Uᵀ T is summed up in blocks of directions, U[:, a:b] C[a:b] with the coordinates C = Uᵀ T. The blocks end at every
twentieth of the smaller dimension and at the wanted rank, whatever was asked before: sums are made in one order, so
that their bits do not depend on the way to them, and nothing adds up over many variants.

Shapes in this file, as seen from the subspace's side: M = the dimension it lies in, N = the other, K = directions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from safety_lightning.checkpoints import MatrixSlot
from safety_lightning.subspaces import Source, rank_from_fraction
from safety_lightning.sweep.sweep import turn
from safety_lightning.sweep.variants.directions import Directions
from safety_lightning.sweep.variants.shelf import Shelf
from safety_lightning.sweep.variants.weights import WeightPair

INSIDE = "inside"
_NUM_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Track:
    """Subspaces of one update that lie in each other.

    Attributes:
        finetuned: Name of the finetuned model.
        source: Where the directions come from.
        seed: Seed of its draw.
    """

    finetuned: str
    source: Source
    seed: int

    @property
    def group(self) -> str:
        """The group of its coordinates on the shelf."""
        return f"coordinates:{self.finetuned}:{self.source}:{self.seed}"


class InsideParts:
    """The parts of one track's updates, at the rank that was asked for last.

    Args:
        directions: Where directions are found.
        shelf: Where parts and coordinates are kept; of parts, those of one track.
    """

    def __init__(self, directions: Directions, shelf: Shelf) -> None:
        self.directions = directions
        self.shelf = shelf
        self._track: Track | None = None
        self._ranks: dict[str, int] = {}

    def find(self, slot: MatrixSlot, track: Track, rank: int, pair: WeightPair) -> Tensor:
        """Returns U Uᵀ T of one matrix, float32, ``(rows, columns)``; whoever gets it must not change it.

        Args:
            slot: The matrix.
            track: Which update and directions.
            rank: How many directions, at least 1.
            pair: The weights.
        """
        if track != self._track:
            self.shelf.drop(INSIDE)
            self._ranks.clear()
            self._track = track
        inside = self.shelf.find(INSIDE, slot.name)
        before = 0 if inside is None else self._ranks.pop(slot.name, 0)  # known again when its sums are whole
        if inside is None:
            inside = torch.empty_like(pair.reference, dtype=torch.float32)
        if before == rank:
            self._ranks[slot.name] = rank
            return inside
        if before > rank or before not in list_steps(slot.rows, slot.columns):
            before = 0
        self._add(inside, slot, track, slice(before, rank), pair)
        kept = self.shelf.keep(INSIDE, slot.name, inside)
        self._ranks[slot.name] = rank
        return kept

    def _add(self, inside: Tensor, slot: MatrixSlot, track: Track, ranks: slice, pair: WeightPair) -> None:
        inside_MN = turn(inside, self.directions.side)
        update_MN: Tensor | None = None
        for block in cut_blocks(slot, ranks):
            name = f"{slot.name}:{block.start}:{block.stop}"
            basis_MK = self.directions.pick(slot, track.source, track.seed, block)
            rows_KN = self.shelf.find(track.group, name)
            if rows_KN is None:
                if update_MN is None:
                    update_MN = turn(pair.subtract(), self.directions.side)
                rows_KN = self.shelf.keep(track.group, name, basis_MK.mT @ update_MN)
            inside_MN.addmm_(basis_MK, rows_KN, beta=0 if block.start == 0 else 1)


def cut_blocks(slot: MatrixSlot, ranks: slice) -> Iterator[slice]:
    """Yields the blocks of directions between two ranks, the first of which is a step."""
    stops = [step for step in list_steps(slot.rows, slot.columns) if ranks.start < step < ranks.stop]
    starts = [ranks.start, *stops]
    yield from map(slice, starts, [*stops, ranks.stop])


@functools.lru_cache
def list_steps(num_rows: int, num_columns: int) -> list[int]:
    """Returns the ranks that blocks of a matrix end at, from 0."""
    shares = [number / _NUM_STEPS for number in range(1, _NUM_STEPS + 1)]
    return sorted({0, *(rank_from_fraction(share, num_rows, num_columns) for share in shares)})
