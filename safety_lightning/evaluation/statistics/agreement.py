"""How far judges agree on the same answers: Krippendorff's alpha.

Shapes in this file: R = judges, N = answers, V = distinct scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from safety_lightning.errors import UserError

Level = Literal["nominal", "ordinal", "interval"]
Floats = NDArray[np.float64]
_NUM_RESAMPLES = 500


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far judges agree.

    Attributes:
        alpha: Krippendorff's alpha: 1 is agreement, 0 what chance would give, below 0 is worse than chance. None where
            all scores are the same, for then nothing could have disagreed.
        level: How the distance of two scores is measured.
        num_pairable: Answers that at least two judges scored, which alone count.
        num_total: All answers.
    """

    alpha: float | None
    level: Level
    num_pairable: int
    num_total: int


def measure_agreement(scores: Sequence[Sequence[float | None]], *, level: Level = "interval") -> Agreement:
    r"""Measures the agreement of judges on the same answers, where any of them may have left some out.

    With :math:`o_{cd}` the coincidences of the scores :math:`c` and :math:`d` (an answer with :math:`m` scores gives
    each ordered pair of them the weight :math:`1 / (m - 1)`), :math:`n_c = \sum_d o_{cd}` and :math:`n = \sum_c n_c`

    .. math:: \alpha = 1 - (n - 1) \frac{\sum_{cd} o_{cd} \delta_{cd}^2}{\sum_{cd} n_c n_d \delta_{cd}^2}

    where :math:`\delta_{cd}^2` is :math:`(c - d)^2` for ``interval``, whether they differ for ``nominal``, and for
    ``ordinal`` :math:`(\sum_{g=c}^{d} n_g - (n_c + n_d) / 2)^2`, the scores between them being counted
    (K. Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011).

    Args:
        scores: One sequence per judge, all over the same answers in the same order; None where a judge gave no score.
        level: How the distance of two scores is measured.

    Raises:
        UserError: If there are fewer than two judges, they are over different numbers of answers, a score is not
            finite, the level is unknown, or no answer has two scores.

    Example:
        >>> measure_agreement([[1, 1, 5, 5], [1, 2, 5, None]]).num_pairable
        3
    """
    scores_RN = _check_scores(scores, level)
    values_V, coincidences_VV, num_pairable = _count_coincidences(scores_RN)
    marginals_V = coincidences_VV.sum(axis=1)
    distances_VV = _measure_distances(values_V, marginals_V, level)
    observed = float((coincidences_VV * distances_VV).sum())
    expected = float((np.outer(marginals_V, marginals_V) * distances_VV).sum())
    alpha = None if expected == 0 else 1 - (float(marginals_V.sum()) - 1) * observed / expected
    return Agreement(alpha=alpha, level=level, num_pairable=num_pairable, num_total=scores_RN.shape[1])


def bootstrap_agreement(scores: Sequence[Sequence[float | None]], *, seed: int) -> tuple[float, float]:
    """Returns the 95 % percentile bootstrap interval of alpha for interval scores, resampling answers.

    Args:
        scores: One sequence per judge, as in `measure_agreement`; only answers that all judges scored are drawn.
        seed: Seed of the draws.
    """
    pairable = [place for place, values in enumerate(zip(*scores, strict=True)) if None not in values]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(pairable), (_NUM_RESAMPLES, len(pairable)), generator=generator).tolist()
    resampled = [
        measure_agreement([[values[pairable[place]] for place in places] for values in scores]).alpha
        for places in drawn
    ]
    found = torch.tensor([value for value in resampled if value is not None], dtype=torch.float64)
    low, high = torch.quantile(found, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _check_scores(scores: Sequence[Sequence[float | None]], level: Level) -> Floats:
    if level not in ("nominal", "ordinal", "interval"):
        raise UserError(f"level must be nominal, ordinal or interval, got {level!r}")
    lengths = [len(one) for one in scores]
    if len(lengths) < 2 or len(set(lengths)) > 1:
        raise UserError(f"scores must be of two or more judges over the same answers, got lengths {lengths}")
    given = [score for one in scores for score in one if score is not None]
    if not np.isfinite(given).all():
        raise UserError("scores must be finite or None, got NaN or infinity")
    return np.array([[np.nan if score is None else score for score in one] for one in scores], dtype=np.float64)


def _count_coincidences(scores_RN: Floats) -> tuple[Floats, Floats, int]:
    num_scores_N = (~np.isnan(scores_RN)).sum(axis=0)
    pairable_RN = scores_RN[:, num_scores_N >= 2]
    if pairable_RN.shape[1] == 0:
        raise UserError(f"scores must hold an answer that two judges scored, got none of {scores_RN.shape[1]}")
    values_V = np.unique(pairable_RN[~np.isnan(pairable_RN)])
    counts_NV = (pairable_RN[:, :, None] == values_V).sum(axis=0).astype(np.float64)  # NaN equals nothing
    weights_N1 = 1 / (counts_NV.sum(axis=1, keepdims=True) - 1)
    pairs_VV = (counts_NV * weights_N1).T @ counts_NV - np.diag((counts_NV * weights_N1).sum(axis=0))
    return values_V, pairs_VV, pairable_RN.shape[1]


def _measure_distances(values_V: Floats, marginals_V: Floats, level: Level) -> Floats:
    if level == "nominal":
        return (values_V[:, None] != values_V).astype(np.float64)
    # for ordinal scores the distance is that of the middles of their ranks
    places_V = values_V if level == "interval" else np.cumsum(marginals_V) - marginals_V / 2
    return np.square(places_V[:, None] - places_V)
