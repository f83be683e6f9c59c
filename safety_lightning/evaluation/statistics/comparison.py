"""Compares two models on the same prompts: the difference with its interval, and McNemar's test for accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safety_lightning.errors import UserError
from safety_lightning.evaluation.statistics.clusters import cluster_interval, find_smallest_difference
from safety_lightning.evaluation.statistics.intervals import average, bootstrap_interval


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Second model minus first, over the prompts that both have a value for.

    Attributes:
        difference: Mean difference.
        low: Lower end of its 95 % bootstrap interval over prompts.
        high: Upper end.
        num_pairs: Prompts that count.
        num_total: All prompts; the rest has no value for one of the models.
        smallest_difference: The smallest true difference that so many prompts would show, with a power of 80 %; None
            where the prompts do not differ and so do not tell.
        num_clusters: Clusters of near twins among the prompts that count, where the interval knows of them.
    """

    difference: float
    low: float
    high: float
    num_pairs: int
    num_total: int
    smallest_difference: float | None = None
    num_clusters: int | None = None


@dataclass(frozen=True, kw_only=True)
class AccuracyComparison(PairedDifference):
    """The difference of two accuracies, and how often only one of the models was right.

    Attributes:
        num_only_first: Prompts that only the first model has right.
        num_only_second: Prompts that only the second model has right.
        p_value: Two-sided exact McNemar test of the two being equally likely.
    """

    num_only_first: int
    num_only_second: int
    p_value: float


def compare_paired(
    first: Sequence[float | None],
    second: Sequence[float | None],
    *,
    seed: int = 0,
    confidence: float = 0.95,
    clusters: Sequence[int] | None = None,
) -> PairedDifference:
    """Compares two models by their values on the same prompts, in the same order.

    The bootstrap draws prompts, so that what is hard for both models cancels. A prompt that is unjudged for one of the
    models counts for neither.

    Args:
        first: One value per prompt, None where there is none.
        second: The other model's values.
        seed: Seed of the bootstrap.
        confidence: In (0, 1).
        clusters: The cluster of near twins of each prompt; the interval is then over clusters. None: over prompts.

    Raises:
        UserError: If the numbers of prompts differ, or no prompt has both values.

    Example:
        >>> found = compare_paired([1.0, 2.0, None], [2.0, 3.0, 5.0])
        >>> found.difference, (found.low, found.high), found.num_pairs, found.num_total
        (1.0, (1.0, 1.0), 2, 3)
    """
    differences = [b - a for a, b in _pair(first, second)]
    paired = [at for at, (a, b) in enumerate(zip(first, second, strict=True)) if a is not None and b is not None]
    own = paired if clusters is None else [clusters[at] for at in paired]
    num_clusters = len(set(own))
    if clusters is None or num_clusters < 2:
        low, high = bootstrap_interval(differences, seed=seed, confidence=confidence)
    else:
        low, high = cluster_interval(differences, own, confidence=confidence)
    return PairedDifference(
        difference=average(differences),
        low=low,
        high=high,
        num_pairs=len(differences),
        num_total=len(first),
        smallest_difference=find_smallest_difference(differences, own, confidence=confidence),
        num_clusters=None if clusters is None else num_clusters,
    )


def compare_accuracies(
    first: Sequence[bool | None],
    second: Sequence[bool | None],
    *,
    seed: int = 0,
    confidence: float = 0.95,
    clusters: Sequence[int] | None = None,
) -> AccuracyComparison:
    r"""Compares two models by which of the same prompts they have right.

    With :math:`b` prompts that only the first has right and :math:`c` that only the second has, the p-value is that of
    :math:`b` under the binomial law of :math:`b + c` draws at one half; it is 1 where :math:`b + c = 0`.

    Args:
        first: Whether the first model is right, per prompt; None where it was not scored.
        second: The same of the second.
        seed: Seed of the bootstrap.
        confidence: In (0, 1).
        clusters: As for `compare_paired`; McNemar's test does not know of them.

    Raises:
        UserError: As `compare_paired`.

    Example:
        >>> compare_accuracies([True] * 6 + [False], [False] * 6 + [False]).p_value
        0.03125
    """
    from scipy.stats import binomtest  # not loaded for what needs an interval alone

    compared = compare_paired(first, second, seed=seed, confidence=confidence, clusters=clusters)
    pairs = _pair(first, second)
    num_only_first = sum(bool(a) and not b for a, b in pairs)
    num_only_second = sum(bool(b) and not a for a, b in pairs)
    num_different = num_only_first + num_only_second
    return AccuracyComparison(
        **vars(compared),
        num_only_first=num_only_first,
        num_only_second=num_only_second,
        p_value=float(binomtest(num_only_first, num_different).pvalue) if num_different else 1.0,
    )


def _pair(first: Sequence[float | None], second: Sequence[float | None]) -> list[tuple[float, float]]:
    if len(first) != len(second):
        raise UserError(f"both models must have the same prompts, got {len(first)} and {len(second)}")
    pairs = [(float(a), float(b)) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if not pairs:
        raise UserError(f"at least one prompt must have a value for both models, got none of {len(first)}")
    return pairs
