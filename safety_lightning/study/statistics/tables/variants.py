"""Makes the rows of the study's tables out of what was measured.

Shapes in this file: V = variants, K = points, B = 1 + resamples, of which the first is the sample itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from safety_lightning.study.statistics.cells import (
    Cell,
    describe_point,
    make_cells,
    measure_room_low,
)
from safety_lightning.study.statistics.resampling import Resamples
from safety_lightning.study.statistics.selectivity import Experiment, Outcome
from safety_lightning.study.statistics.settings import StatisticsSettings
from safety_lightning.study.statistics.tables.rows import PointRow, SelectivityRow, VariantRow
from safety_lightning.study.statistics.values import FINETUNED, REFERENCE, Floats, TableKey, Values, VariantKey
from safety_lightning.tables import drop_nan

Outcomes = Mapping[Experiment, Sequence[Outcome]]


def list_variants(values: Values, resamples: Resamples, *, level: float) -> list[VariantRow]:
    """Lists every variant of every fine-tune under every metric, with intervals over prompts."""
    return [row for key in values.tables for row in _list_table(values, resamples, key, level=level)]


def _list_table(values: Values, resamples: Resamples, key: TableKey, *, level: float) -> Iterator[VariantRow]:
    table, means_VB = values.tables[key], resamples.mean(key)
    low_V, high_V = make_pointwise(means_VB, level=level)
    for at, variant in enumerate(table.variants):
        yield VariantRow(
            finetuned=key.finetuned,
            seed=key.seed,
            source=variant.source,
            draw=variant.draw,
            component=variant.component,
            fraction=variant.fraction,
            alpha=variant.alpha,
            energy_kept=values.energies[key.finetuned, key.seed, variant],
            metric=key.metric,
            value=drop_nan(means_VB[at, 0]),
            low=drop_nan(low_V[at]),
            high=drop_nan(high_V[at]),
            num_total=table.values_VP.shape[1],
            num_scored=int((~np.isnan(table.values_VP[at])).sum()),
        )


def make_pointwise(values_VB: Floats, *, level: float) -> tuple[Floats, Floats]:
    """Returns the percentile interval of each line by itself, shape ``(V,)`` each; resamples with NaN are left out."""
    estimates_V, low_V, high_V = values_VB[:, 0], np.full(len(values_VB), np.nan), np.full(len(values_VB), np.nan)
    known = ~np.isnan(values_VB).all(1)
    quantile = (
        np.nanquantile if np.isnan(values_VB[known]).any() else np.quantile
    )  # the latter takes a tenth of the time
    low_V[known], high_V[known] = quantile(values_VB[known, 1:], [(1 - level) / 2, (1 + level) / 2], axis=1)
    return np.fmin(low_V, estimates_V), np.fmax(high_V, estimates_V)


def list_selectivities(outcomes: Outcomes, cells: Sequence[Cell], settings: StatisticsSettings) -> list[SelectivityRow]:
    """Lists the cells of the orthogonal component, which decide, and those of the parallel one, which describe."""
    rooms = {one.number: measure_room_low(found, level=settings.level)[0] for one, found in outcomes.items()}
    return [
        SelectivityRow(
            experiment=cell.experiment,
            component=cell.point.component,
            fraction=cell.point.fraction,
            utility_metric=settings.utility,
            harm_metric=settings.harm,
            retained_utility=drop_nan(cell.learning),
            retained_harm=drop_nan(cell.harm),
            selectivity=drop_nan(cell.selectivity),
            low=cell.low,
            high=cell.high,
            room=rooms[cell.experiment],
        )
        for cell in [*cells, *make_cells(outcomes, "parallel", level=settings.level)]
    ]


def list_points(outcomes: Outcomes, cells: Sequence[Cell], *, level: float) -> list[PointRow]:
    """Lists what every variant keeps of learning and harm; of variants of several draws, the mean.

    Args:
        outcomes: What was measured.
        cells: The cells that decide, which know their twins.
        level: Level of the intervals, which hold each by itself.
    """
    twins = {(cell.experiment, cell.point): cell.same_as for cell in cells}
    rows = []
    for experiment, found in outcomes.items():
        common = [point for point in found[0].points if all(point in one.points for one in found)]
        described = [describe_point(found, point) for point in common if point not in (REFERENCE, FINETUNED)]
        best = _find_pareto([(cell.learning, cell.harm) for cell in described])
        learning, harm = (_list_intervals(found, common, name, level) for name in ("learning_KB", "harm_KB"))
        for cell, is_pareto in zip(described, best, strict=True):
            point = cell.point
            rows.append(
                PointRow(
                    experiment=experiment.number,
                    source=point.source,
                    component=point.component,
                    fraction=point.fraction,
                    alpha=point.alpha,
                    retained_utility=drop_nan(cell.learning),
                    utility_low=learning[point][0],
                    utility_high=learning[point][1],
                    retained_harm=drop_nan(cell.harm),
                    harm_low=harm[point][0],
                    harm_high=harm[point][1],
                    raw_utility=drop_nan(cell.raw_learning),
                    raw_harm=drop_nan(cell.raw_harm),
                    selectivity=drop_nan(cell.selectivity),
                    is_pareto=is_pareto,
                    same_as=twins.get((cell.experiment, point)),
                )
            )
    return rows


def _list_intervals(
    found: Sequence[Outcome], points: Sequence[VariantKey], name: str, level: float
) -> dict[VariantKey, tuple[float | None, float | None]]:
    shares_KB = np.mean(
        [np.clip(getattr(one, name)[[one.points.index(point) for point in points]], 0, 1) for one in found], axis=0
    )
    low_K, high_K = make_pointwise(shares_KB, level=level)
    ends = [(drop_nan(low), drop_nan(high)) for low, high in zip(low_K, high_K, strict=True)]
    return dict(zip(points, ends, strict=True))


def _find_pareto(places: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether no other place has as much learning and no more harm, and one of them better; not one that is unknown."""
    return [
        not np.isnan(own_u + own_h)
        and not any(u >= own_u and h <= own_h and (u, h) != (own_u, own_h) for u, h in places)
        for own_u, own_h in places
    ]
