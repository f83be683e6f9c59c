"""What variants keep of a fine-tune's learning and of its harm.

Shapes in this file: V = variants, K = points (variants, those that differ in the draw alone taken together), B = 1 +
resamples, of which the first is the sample itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from safety_lightning.study.statistics.resampling import Resamples
from safety_lightning.study.statistics.settings import get_metric
from safety_lightning.study.statistics.values import FINETUNED, RANDOM, REFERENCE, Floats, TableKey, Values, VariantKey


@dataclass(frozen=True)
class Gain:
    """How far a fine-tune moved a metric: the denominator of what variants keep.

    Attributes:
        key: Which fine-tune and metric.
        value: The change.
        low: Lower end of its interval.
        high: Upper end.
        smallest: The smallest change that counts.
    """

    key: TableKey
    value: float
    low: float
    high: float
    smallest: float

    @property
    def is_sure(self) -> bool:
        """Whether the whole interval lies above the smallest change that counts."""
        return self.low > self.smallest


def average_draws(means_VB: Floats, variants: Sequence[VariantKey], resamples: Resamples) -> dict[VariantKey, Floats]:
    """Returns the mean of every point in each resample: of variants that differ in the draw alone, the mean over draws.

    Only ``random`` has draws to be averaged; whatever else has one draw is a point by itself.

    Args:
        means_VB: Means over prompts, shape ``(V, B)``.
        variants: The variants.
        resamples: Which draws are drawn.

    Returns:
        Means of shape ``(B,)`` by key without draw.
    """
    draws = sorted({one.draw for one in variants if one.source == RANDOM})
    groups: dict[VariantKey, list[int]] = {}
    for at, variant in enumerate(variants):
        groups.setdefault(variant.without_draw(), []).append(at)
    points = {}
    for key, members in groups.items():
        if len(members) == 1:
            points[key] = means_VB[members[0]]
            continue
        weights_DB = resamples.weigh_draws(len(draws))[[draws.index(variants[at].draw) for at in members]]
        with np.errstate(invalid="ignore"):  # a resample that drew none of a cell's draws has NaN there
            points[key] = (weights_DB * means_VB[members]).sum(0) / weights_DB.sum(0)
    return points


def measure_shares(points: Mapping[VariantKey, Floats]) -> dict[VariantKey, Floats]:
    """Returns the share of the fine-tune's change that each point keeps, not clipped, shape ``(B,)`` each.

    A resample in which the fine-tune moved the metric the wrong way, or not at all, has NaN.

    Args:
        points: Means by point, reference and finetuned among them.
    """
    gain_B = points[FINETUNED] - points[REFERENCE]
    gain_B = np.where(gain_B > 0, gain_B, np.nan)
    return {key: (mean_B - points[REFERENCE]) / gain_B for key, mean_B in points.items()}


def measure_gain(
    key: TableKey, values: Values, resamples: Resamples, *, level: float, smallest_gain: float
) -> Gain | None:
    """Returns how far a fine-tune moved a metric; None where reference or finetuned model was not measured."""
    table = values.tables.get(key)
    if table is None or not {REFERENCE, FINETUNED} <= set(table.variants):
        return None
    means_VB = resamples.mean(key)
    gain_B = means_VB[table.variants.index(FINETUNED)] - means_VB[table.variants.index(REFERENCE)]
    if np.isnan(gain_B[0]):
        return None
    low, high = np.nanquantile(gain_B[1:], [(1 - level) / 2, (1 + level) / 2])
    smallest = smallest_gain * get_metric(key.metric).span
    return Gain(key, float(gain_B[0]), float(low), float(high), smallest)
