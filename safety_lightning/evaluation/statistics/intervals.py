"""Intervals: how sure a share or a mean is, given how many cases it rests on."""

from collections.abc import Sequence
from fractions import Fraction
from math import isfinite, isnan, sqrt
from statistics import NormalDist

import torch
from torch import Tensor

from safety_lightning.errors import UserError

_MAX_DRAWS = 4_000_000  # indices drawn at a time, which bounds the memory


def average(values: Sequence[float], weights: Sequence[float] | None = None) -> float:
    r"""Returns the mean :math:`\sum v / n`, or the ratio :math:`\sum v / \sum w`, rounded once, at the end.

    Args:
        values: One or more.
        weights: The tokens that each value is summed over; None for a mean.

    Returns:
        The mean, which lies between the smallest and the largest value; NaN or infinity where a value is.

    Example:
        >>> average([0.1, 0.1, 0.1]), sum([0.1, 0.1, 0.1]) / 3
        (0.1, 0.10000000000000002)
    """
    total_weight = len(values) if weights is None else sum(map(Fraction, weights))
    if all(map(isfinite, values)):
        return float(sum(map(Fraction, values)) / max(total_weight, 1))
    return sum(values) / float(max(total_weight, 1))


def wilson_interval(num_successes: int, num_total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    r"""Returns the Wilson score interval of a share.

    With :math:`p` the share, :math:`n` the number of cases and :math:`z` the normal quantile of the confidence

    .. math:: \frac{p + z^2 / 2n \pm z \sqrt{p (1 - p) / n + z^2 / 4 n^2}}{1 + z^2 / n}

    Unlike :math:`p \pm z \sqrt{p (1 - p) / n}` it has a width at shares of 0 and 1 too.

    Args:
        num_successes: Cases that count, between 0 and ``num_total``.
        num_total: All cases, at least 1.
        confidence: In (0, 1).

    Returns:
        The lower and the upper end, both in [0, 1].

    Raises:
        UserError: If an argument is out of its range.

    Example:
        >>> low, high = wilson_interval(0, 100)
        >>> round(low, 4), round(high, 4)
        (0.0, 0.037)
    """
    _check_confidence(confidence)
    if num_total < 1:
        raise UserError(f"num_total must be at least 1, got {num_total}")
    if not 0 <= num_successes <= num_total:
        raise UserError(f"num_successes must be between 0 and num_total ({num_total}), got {num_successes}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, scale = num_successes / num_total, 1 + z**2 / num_total
    centre = (share + z**2 / (2 * num_total)) / scale
    half = z * sqrt(share * (1 - share) / num_total + z**2 / (4 * num_total**2)) / scale
    low = 0.0 if num_successes == 0 else centre - half  # exact at the ends, where rounding would be seen
    high = 1.0 if num_successes == num_total else centre + half
    return low, high


def bootstrap_interval(
    values: Sequence[float] | Tensor,
    weights: Tensor | None = None,
    *,
    seed: int = 0,
    confidence: float = 0.95,
    num_resamples: int = 2000,
) -> tuple[float, float]:
    r"""Returns the percentile bootstrap interval of a mean, or of a ratio of sums.

    Draws :math:`n` of the :math:`n` cases with replacement, takes the mean of their values (with weights
    :math:`\sum v / \sum w`, such as a loss per token), does so ``num_resamples`` times and returns the
    :math:`(1 - c) / 2` and :math:`(1 + c) / 2` quantiles of what it took, :math:`c` being the confidence.

    Args:
        values: One value per case, at least one, shape ``(B,)``; finite, but that a loss per token may be NaN or
            infinite (of a model that diverged), and its interval is then too.
        weights: The tokens that each value is summed over, at least 0, shape ``(B,)``; None for a mean.
        seed: Seed of the draws.
        confidence: In (0, 1).
        num_resamples: How often to draw, at least 1.

    Returns:
        The lower and the upper end, which hold `average` of the values between them, to the last digit; of a mean, both
        lie between the smallest and the largest value.

    Raises:
        UserError: If the values are empty, not of one dimension or (of a mean) not finite, or an argument is out of its
            range.

    Example:
        >>> bootstrap_interval([2.0, 2.0, 2.0])
        (2.0, 2.0)
        >>> bootstrap_interval([2.0, 2.0, 2.0], torch.tensor([4.0, 4.0, 4.0]))
        (0.5, 0.5)
    """
    _check_confidence(confidence)
    values_B = torch.as_tensor(values, dtype=torch.float64).cpu()
    is_finite = weights is not None or bool(values_B.isfinite().all())
    if values_B.ndim != 1 or len(values_B) == 0 or not is_finite:
        raise UserError(f"values must be one or more finite numbers in one dimension, got {values!r}")
    if num_resamples < 1:
        raise UserError(f"num_resamples must be at least 1, got {num_resamples}")
    weights_B = torch.ones_like(values_B) if weights is None else weights.double().cpu()
    generator = torch.Generator().manual_seed(seed)
    num_at_once = max(1, _MAX_DRAWS // len(values_B))
    ratios = []
    for start in range(0, num_resamples, num_at_once):
        shape = (min(num_at_once, num_resamples - start), len(values_B))
        drawn = torch.randint(len(values_B), shape, generator=generator)
        ratios.append(values_B[drawn].sum(dim=1) / weights_B[drawn].sum(dim=1).clamp_min(1))
    ends = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    low, high = torch.quantile(torch.cat(ratios), ends).tolist()
    centre = average(values_B.tolist(), None if weights is None else weights_B.tolist())
    if weights is None:  # sums of floats can end beside the values that they are of
        least, most = float(values_B.min()), float(values_B.max())
        low, high = min(max(low, least), most), min(max(high, least), most)
    return (low, high) if isnan(low + high + centre) else (min(low, centre), max(high, centre))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UserError(f"confidence must be in (0, 1), got {confidence}")
