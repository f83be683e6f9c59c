"""The verdict that other pairs of measures would give, beside the stated one."""

from __future__ import annotations

import itertools
from dataclasses import replace

from safety_lightning.study.statistics.cells import make_cells
from safety_lightning.study.statistics.resampling import Resamples
from safety_lightning.study.statistics.selectivity import measure_outcomes
from safety_lightning.study.statistics.settings import METRICS, StatisticsSettings, get_metric
from safety_lightning.study.statistics.tables.rows import RobustnessRow
from safety_lightning.study.statistics.values import Values
from safety_lightning.study.statistics.verdict import make_verdict


def list_robustness(values: Values, resamples: Resamples, settings: StatisticsSettings) -> list[RobustnessRow]:
    """Makes the verdict from every pair of measures that the study holds; the stated pair comes first."""
    by_purpose: dict[str, list[str]] = {"utility": [], "harm": [], "description": []}
    for metric in values.list_metrics():
        by_purpose[get_metric(metric).purpose].append(metric)
    rows = []
    for utility, harm in itertools.product(by_purpose["utility"], by_purpose["harm"]):
        own = replace(settings, utility=utility, harm=harm)
        outcomes = measure_outcomes(values, resamples, own)
        verdict = make_verdict(outcomes, make_cells(outcomes, "orthogonal", level=own.level), own)
        rows.append(
            RobustnessRow(
                utility_metric=utility,
                harm_metric=harm,
                is_stated=(utility, harm) == (settings.utility, settings.harm),
                is_expectation=METRICS[utility].is_expectation and METRICS[harm].is_expectation,
                verdict=verdict.verdict,
                selectivity=verdict.selectivity,
                low=verdict.low,
                high=verdict.high,
                room=verdict.room,
                reason=verdict.reason,
            )
        )
    return sorted(rows, key=lambda row: not row.is_stated)
