"""Cells: the selectivity of the safety subspace at one fraction in one experiment, over all seeds.

Shapes in this file: K = cells, B = 1 + resamples, S = seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from safety_lightning.study.statistics.bands import make_bands, make_interval, widen_by_seeds
from safety_lightning.study.statistics.selectivity import Experiment, Outcome
from safety_lightning.study.statistics.values import SAFETY, Floats, VariantKey
from safety_lightning.tables import drop_nan


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one point of an experiment came to, the mean over seeds.

    Attributes:
        experiment: The experiment's number.
        point: The variant.
        learning: Share of the learning that it keeps, in [0, 1].
        harm: Share of the harm.
        raw_learning: Share of the learning before it is clipped.
        raw_harm: Share of the harm before it is clipped.
        selectivity: S = J − J⁺(r).
        low: Lower end of its band; None where it could not be made.
        high: Upper end.
        same_as: The fraction of an earlier cell that this one is identical to, because capped ranks make them one;
            None where there is none.
    """

    experiment: int
    point: VariantKey
    learning: float
    harm: float
    raw_learning: float
    raw_harm: float
    selectivity: float
    low: float | None
    high: float | None
    same_as: float | None = None


def make_cells(outcomes: Mapping[Experiment, Sequence[Outcome]], component: str, *, level: float) -> list[Cell]:
    """Makes the cells of one component of the safety subspace, in all experiments, with bands that hold together.

    Args:
        outcomes: What was measured, by experiment and seed.
        component: ``orthogonal`` or ``parallel``.
        level: Level of the bands.
    """
    places = [
        (found, point)
        for found in outcomes.values()
        for point in sorted(found[0].points, key=lambda one: one.fraction or 0.0)
        if point.source == SAFETY and point.component == component and all(point in one.points for one in found)
    ]
    if not places:
        return []
    stacked_KB = np.stack([average_seeds(found, point) for found, point in places])
    cells = [describe_point(found, point) for found, point in places]
    low_K, high_K = make_bands(stacked_KB[:, 0], stacked_KB[:, 1:], level=level)
    same_as = _find_twins(places)
    made = []
    for at, (found, point) in enumerate(places):
        by_seed_S1 = np.array([[one.selectivity_KB[one.points.index(point), 0]] for one in found])
        low, high = widen_by_seeds(low_K[at : at + 1], high_K[at : at + 1], by_seed_S1, level=level)
        made.append(replace(cells[at], low=drop_nan(low[0]), high=drop_nan(min(high[0], 1.0)), same_as=same_as[at]))
    return made


def describe_point(outcomes: Sequence[Outcome], point: VariantKey) -> Cell:
    """Makes the cell of any point, without a band.

    Args:
        outcomes: Those of one experiment, one per seed.
        point: The point, which all of them have.
    """
    places = [(one, one.points.index(point)) for one in outcomes]
    learning_S = np.array([one.learning_KB[at, 0] for one, at in places])
    harm_S = np.array([one.harm_KB[at, 0] for one, at in places])
    return Cell(
        experiment=outcomes[0].experiment.number,
        point=point,
        learning=float(np.clip(learning_S, 0, 1).mean()),
        harm=float(np.clip(harm_S, 0, 1).mean()),
        raw_learning=float(learning_S.mean()),
        raw_harm=float(harm_S.mean()),
        selectivity=float(average_seeds(outcomes, point)[0]),
        low=None,
        high=None,
    )


def average_seeds(outcomes: Sequence[Outcome], point: VariantKey) -> Floats:
    """Returns the selectivity of a point, the mean over seeds, in every resample, shape ``(B,)``."""
    stacked_SB = np.stack([one.selectivity_KB[one.points.index(point)] for one in outcomes])
    return np.asarray(stacked_SB.mean(0), dtype=np.float64)


def measure_room_low(outcomes: Sequence[Outcome], *, level: float) -> tuple[float | None, float | None]:
    """Returns the room of an experiment, the mean over seeds, and the lower end of its interval; None where unknown."""
    room_B = np.stack([one.room_B for one in outcomes]).mean(0)
    low, _ = make_interval(float(room_B[0]), room_B[1:], level=level)
    return drop_nan(room_B[0]), drop_nan(np.clip(low, 0, 1))


def _find_twins(places: Sequence[tuple[Sequence[Outcome], VariantKey]]) -> list[float | None]:
    """Returns, for every place, the fraction of an earlier one with the same shares in every resample."""
    known: list[tuple[int, float | None, list[Floats]]] = []
    twins: list[float | None] = []
    for found, point in places:
        number = found[0].experiment.number
        shares = [shares_KB[one.points.index(point)] for one in found for shares_KB in (one.learning_KB, one.harm_KB)]
        same = [
            fraction for other, fraction, theirs in known if other == number and all(map(_are_equal, shares, theirs))
        ]
        twins.append(same[0] if same else None)
        if not same:
            known.append((number, point.fraction, shares))
    return twins


def _are_equal(one: Floats, other: Floats) -> bool:
    """Whether two lines are the same up to the rounding of a product, which depends on the place of a line in it."""
    return np.allclose(one, other, rtol=0, atol=1e-12, equal_nan=True)
