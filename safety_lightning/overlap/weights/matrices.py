"""Measures the overlap of updates of one matrix, and keeps what was measured as plain JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from safety_lightning.overlap.angles import make_angle_row
from safety_lightning.overlap.rows import AngleRow, name_pair
from safety_lightning.overlap.settings import WeightSettings
from safety_lightning.subspaces import Overlap, compare_all, sketch_modes, span_modes

LARGE_ROWS = 10_000  # Paper: updates with more rows were decomposed by a random projection
Pair = tuple[str, str]


@dataclass(frozen=True)
class MatrixMeasure:
    """What was measured of one matrix.

    Attributes:
        exact: Overlaps by pair, from whole decompositions.
        sketched: The same from a random projection, where it was asked for.
        angles: Rows of principal angles, where they were asked for.
    """

    exact: Mapping[Pair, Sequence[Overlap]]
    sketched: Mapping[Pair, Sequence[Overlap]] | None
    angles: Sequence[AngleRow]


def measure_matrix(
    name: str,
    deltas: Mapping[str, Tensor],
    pairs: Iterable[Pair],
    settings: WeightSettings,
    *,
    sketch: bool = False,
) -> MatrixMeasure:
    """Measures every pair of updates of one matrix at every share of energy, by one decomposition an update.

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
    """Whether the paper's release would not decompose a matrix of so many rows wholly."""
    return num_rows > LARGE_ROWS


def pack_measure(measure: MatrixMeasure) -> dict[str, Any]:
    """Returns a measure as plain JSON."""
    return {
        "exact": _pack_overlaps(measure.exact),
        "sketched": None if measure.sketched is None else _pack_overlaps(measure.sketched),
        "angles": [vars(row) for row in measure.angles],
    }


def unpack_measure(packed: Mapping[str, Any]) -> MatrixMeasure:
    """Makes a measure of what `pack_measure` returned."""
    sketched = packed["sketched"]
    return MatrixMeasure(
        _unpack_overlaps(packed["exact"]),
        None if sketched is None else _unpack_overlaps(sketched),
        [AngleRow(**row) for row in packed["angles"]],
    )


def _pack_overlaps(overlaps: Mapping[Pair, Sequence[Overlap]]) -> list[list[Any]]:
    return [[*pair, [vars(one) for one in found]] for pair, found in overlaps.items()]


def _unpack_overlaps(packed: Sequence[Sequence[Any]]) -> dict[Pair, list[Overlap]]:
    return {(first, second): [Overlap(**one) for one in found] for first, second, found in packed}
