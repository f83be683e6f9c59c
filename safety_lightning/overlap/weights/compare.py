"""Compares updates of weights: named checkpoints, measured matrix by matrix."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from safety_lightning.checkpoints import (
    CheckpointReader,
    MatrixSlot,
    check_pair,
    locate_model,
    open_one,
    select_slots,
    subtract_base,
)
from safety_lightning.errors import UserError
from safety_lightning.overlap.parts import Pair, unpack_overlaps, unpack_pairs
from safety_lightning.overlap.rows import AngleRow, make_angle_row, name_pair
from safety_lightning.overlap.settings import DELTA, WeightInputs, WeightSettings
from safety_lightning.subspaces import Overlap, compare_all, sketch_modes, span_modes
from safety_lightning.system.devices import in_full_precision

LARGE_ROWS = 10_000  # Paper: updates with more rows were decomposed by a random projection
_CEILING = "{} (other seed)"


class WeightUpdates:
    """The updates that are compared, with the pairs of them.

    Args:
        inputs: The checkpoints, whole or LoRA adapters; those of another seed are called as the updates they belong to.
        settings: Which tensors take part.

    Raises:
        UserError: If there are not two updates, a name is taken or unknown, or checkpoints do not fit each other.
    """

    def __init__(self, inputs: WeightInputs, settings: WeightSettings) -> None:
        ceilings = inputs.ceilings or {}
        _check_names(inputs.updates, ceilings, has_delta=inputs.base is not None)
        self.reference = _open(inputs.reference)
        self.base = None if inputs.base is None else _open(inputs.base)
        if self.base is not None:
            check_pair(self.base, self.reference, common_rows=settings.common_rows)
        self.ceilings = {name: (name, _CEILING.format(name)) for name in ceilings}
        others = {_CEILING.format(name): place for name, place in ceilings.items()}
        self._finetuned = {
            name: open_one(name, place, self.reference, kind="update")
            for name, place in {**inputs.updates, **others}.items()
        }
        self.updates = [*inputs.updates, *([] if self.base is None else [DELTA])]
        self.pairs: list[Pair] = list(itertools.combinations(self.updates, 2))
        self.slots = select_slots(
            self.reference, include=settings.include, exclude=settings.exclude, vectors=settings.vectors
        )

    @property
    def num_layers(self) -> int:
        """The number of decoder layers, by the config or the tensors' names."""
        known = [slot.layer for slot in self.slots if slot.layer is not None]
        return max(int(self.reference.config.get("num_hidden_layers") or 0), *(layer + 1 for layer in known), 1)

    def hash_files(self) -> dict[str, Any]:
        """Returns the hashes of every update's files."""
        start = self.reference.hash_files()
        hashes = {name: {"start": start, "end": one.hash_files()} for name, one in self._finetuned.items()}
        return hashes if self.base is None else hashes | {DELTA: {"start": self.base.hash_files(), "end": start}}

    def check(self) -> None:
        """Reads every tensor once.

        Raises:
            UserError: If a weight is NaN or infinite, or an update is zero in all matrices.
        """
        changed: set[str] = set()
        matrices = tqdm(self.iterate(self.slots), total=len(self.slots), desc="Checking", unit="matrix", delay=1)
        for _, deltas in matrices:
            changed |= {name for name, delta in deltas.items() if name not in changed and delta.any()}
        for name in [*self._finetuned, *self.updates]:
            if name not in changed:
                other = self._finetuned.get(name) or self.base
                assert other is not None
                raise UserError(
                    f"update {name} must not be zero, {other.folder} and {self.reference.folder} are identical in all "
                    f"{len(self.slots)} selected matrices"
                )

    def iterate(self, slots: Sequence[MatrixSlot]) -> Iterator[tuple[MatrixSlot, dict[str, Tensor]]]:
        """Yields some matrices with every update of them, float32, on the CPU; each tensor is read once."""
        for slot in slots:
            stored = self.reference.read_finite(slot.tensor, slot.index).float()
            start = slot.view_part(stored)
            deltas = {}
            for name, one in self._finetuned.items():
                update = one.read_update(slot, start)
                deltas[name] = torch.zeros_like(start) if update is None else update
            if self.base is not None:
                delta = stored.clone()
                subtract_base(delta, self.base, slot.tensor, slot.index)
                deltas[DELTA] = slot.view_part(delta)
            yield slot, deltas

    def all_pairs(self) -> list[Pair]:
        """Lists the pairs, and those of two seeds of one update."""
        return [*self.pairs, *self.ceilings.values()]


def _check_names(updates: Mapping[str, str], ceilings: Mapping[str, str], *, has_delta: bool) -> None:
    if has_delta and DELTA in updates:
        raise UserError(f"updates must not be called {DELTA}, which is reference − base, got {DELTA}={updates[DELTA]}")
    if len(updates) + has_delta < 2:
        raise UserError(f"updates must be at least two (base adds one), got {list(updates) or 'none'}")
    unknown = sorted(set(ceilings) - set(updates))
    if unknown:
        raise UserError(f"ceilings must be of the updates {list(updates)}, got {unknown[0]}")


def _open(reference: str) -> CheckpointReader:
    return CheckpointReader(locate_model(reference))


@dataclass(frozen=True)
class MatrixMeasure:
    """What was measured of one matrix.

    Attributes:
        exact: Overlaps by pair, from exact decompositions.
        sketched: The same from a random projection, where it was asked for.
        angles: Rows of principal angles, where they were asked for.
    """

    exact: Mapping[Pair, Sequence[Overlap]]
    sketched: Mapping[Pair, Sequence[Overlap]] | None
    angles: Sequence[AngleRow]


@in_full_precision()
def measure_matrix(
    name: str,
    deltas: Mapping[str, Tensor],
    pairs: Iterable[Pair],
    settings: WeightSettings,
    *,
    sketch: bool = False,
) -> MatrixMeasure:
    """Measures every pair of updates of one matrix at every share of energy, by one decomposition per update.

    Args:
        name: The matrix's name.
        deltas: The updates, float32 or float64, of one shape.
        pairs: Which to compare.
        settings: The shares, and which side.
        sketch: Measure large matrices by a random projection too.
    """
    wanted = list(pairs)
    modes = {one: span_modes(delta, etas=settings.etas, side=settings.side) for one, delta in deltas.items()}
    exact = compare_all(modes, wanted)
    angles = [
        make_angle_row(name_pair(*pair), name, eta, modes[pair[0]], modes[pair[1]])
        for pair in wanted
        for eta in settings.angle_etas
        if exact[pair][0].is_defined
    ]
    sketched = None
    if sketch and is_large(next(iter(deltas.values())).shape[0]):
        sketches = {
            one: sketch_modes(delta, etas=settings.etas, side=settings.side, seed=settings.seed)
            for one, delta in deltas.items()
        }
        sketched = compare_all(sketches, wanted)
    return MatrixMeasure(exact, sketched, angles)


def is_large(num_rows: int) -> bool:
    """Whether the paper's release would not decompose a matrix of so many rows exactly."""
    return num_rows > LARGE_ROWS


def unpack_measure(packed: Mapping[str, Any]) -> MatrixMeasure:
    """Makes a measure of the part that holds it."""
    sketched = packed["sketched"]
    return MatrixMeasure(
        unpack_pairs(packed["exact"], unpack_overlaps),
        None if sketched is None else unpack_pairs(sketched, unpack_overlaps),
        [AngleRow(**row) for row in packed["angles"]],
    )
