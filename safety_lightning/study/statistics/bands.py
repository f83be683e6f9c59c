"""Intervals of a study: over prompts and draws by resamples, over fine-tuning seeds by the t distribution.

Shapes in this file: K = cells, B = resamples (without the sample itself), S = seeds.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata, t

from safety_lightning.study.statistics.values import Floats

FEWEST_SEEDS = 3
"""How many seeds an interval over seeds needs; a bootstrap of two to five seeds covers 51 to 83 %."""

_FEWEST_RESAMPLES = 50


def make_bands(estimates_K: Floats, resampled_KB: Floats, *, level: float) -> tuple[Floats, Floats]:
    """Makes bands for all cells together, at a nominal level, from the ranks of the resamples.

    A resample is as deep as its cell nearest to an end of that cell's order. One tail, the same for all cells, leaves
    the share 1 − level of resamples outside: the shallowest. A cell without spread constrains nothing, and two cells
    that are the same count once.

    The frontier is the largest of many noisy values: in the sample it lies too high, and in resamples of the sample by
    as much again. The resamples are shifted by twice that bias, as far as they tell it. How often bands hold a known
    selectivity is measured by ``scripts/measure_coverage.py``; its numbers are in docs/study.md.

    Args:
        estimates_K: What the bands are around, shape ``(K,)``.
        resampled_KB: The same in the resamples, shape ``(K, B)``; resamples with a NaN are left out.
        level: In (0, 1).

    Returns:
        Lower and upper ends, shape ``(K,)``, which hold the estimates; NaN where there is no estimate (its fine-tune
        moved a measure the wrong way), or too few resamples are left.
    """
    known_K = ~np.isnan(estimates_K)
    if not known_K.all():
        ends_2K = np.full((2, len(estimates_K)), np.nan)
        ends_2K[:, known_K] = make_bands(estimates_K[known_K], resampled_KB[known_K], level=level)
        return ends_2K[0], ends_2K[1]
    resampled_KB = resampled_KB[:, ~np.isnan(resampled_KB).any(0)]
    num_left = resampled_KB.shape[1]
    if num_left < _FEWEST_RESAMPLES or len(estimates_K) == 0:
        return np.full_like(estimates_K, np.nan), np.full_like(estimates_K, np.nan)
    resampled_KB = resampled_KB - 2 * (resampled_KB.mean(1) - estimates_K)[:, None]
    below_KB = rankdata(resampled_KB, method="max", axis=1)  # equal values are all as deep as the deepest
    above_KB = num_left + 1 - rankdata(resampled_KB, method="min", axis=1)
    depth_B = (np.minimum(below_KB, above_KB) / (num_left + 1)).min(0)
    tail = min(float(np.quantile(depth_B, 1 - level)), (1 - level) / 2)
    low_K, high_K = np.quantile(resampled_KB, [tail, 1 - tail], axis=1)
    return np.minimum(low_K, estimates_K), np.maximum(high_K, estimates_K)


def make_interval(estimate: float, resampled_B: Floats, *, level: float) -> tuple[float, float]:
    """Makes the interval of one value: bands of one cell."""
    low, high = make_bands(np.array([estimate]), resampled_B[None], level=level)
    return float(low[0]), float(high[0])


def widen_by_seeds(low_K: Floats, high_K: Floats, by_seed_SK: Floats, *, level: float) -> tuple[Floats, Floats]:
    """Widens bands over prompts by what other fine-tunes would change: a t interval over seeds, added in squares.

    Bands over prompts leave out how seeds differ, and an interval over seeds leaves out the prompts that all of them
    share. The t interval is that of each cell by itself: corrected for the number of cells, three seeds would say
    nothing, and ``separable`` asks for a selectivity of at least delta besides.

    Args:
        low_K: Lower ends over prompts and draws, shape ``(K,)``.
        high_K: Upper ends.
        by_seed_SK: The estimates with each seed, shape ``(S, K)``, whose mean the bands are around.
        level: In (0, 1).

    Returns:
        Lower and upper ends; those given where there are fewer than three seeds.
    """
    num_seeds = len(by_seed_SK)
    if num_seeds < FEWEST_SEEDS:
        return low_K, high_K
    mean_K, error_K = by_seed_SK.mean(0), by_seed_SK.std(0, ddof=1) / np.sqrt(num_seeds)
    reach_K = t.ppf((1 + level) / 2, num_seeds - 1) * error_K
    return mean_K - np.hypot(mean_K - low_K, reach_K), mean_K + np.hypot(high_K - mean_K, reach_K)
