"""Paired comparisons against scipy, and what pairing is good for."""

import random

import pytest
import scipy.stats
import torch

from safety_lightning.evaluation.statistics.clusters import cluster_interval, find_smallest_difference
from safety_lightning.evaluation.statistics.comparison import compare_accuracies, compare_paired
from safety_lightning.evaluation.statistics.intervals import bootstrap_interval


def test_the_interval_agrees_with_scipy():
    draw = random.Random(0)
    first = [draw.uniform(1, 5) for _ in range(200)]
    second = [value + draw.gauss(0.3, 1) for value in first]
    compared = compare_paired(first, second)
    expected = scipy.stats.bootstrap(
        (second, first),
        lambda a, b, axis: (a - b).mean(axis=axis),
        paired=True,
        n_resamples=10_000,
        method="percentile",
        rng=0,
    ).confidence_interval
    assert (compared.low, compared.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert compared.low < compared.difference < compared.high
    assert compared.difference == pytest.approx(sum(second) / 200 - sum(first) / 200)


def test_pairing_takes_out_what_prompts_share():
    draw = random.Random(1)
    first = [draw.choice([1.0, 5.0]) for _ in range(100)]
    second = [value + draw.gauss(0.2, 0.1) for value in first]
    compared = compare_paired(first, second)
    low, high = bootstrap_interval(second)
    assert compared.high - compared.low < (high - low) / 10
    assert compared.low > 0


def test_prompts_without_both_values_are_left_out_and_counted():
    compared = compare_paired([1.0, None, 3.0, 4.0], [2.0, 5.0, None, 4.0])
    assert (compared.difference, compared.num_pairs, compared.num_total) == (0.5, 2, 4)


def test_the_seed_repeats():
    values = [1.0, 2.0, 5.0, 1.0, 4.0, 2.5]
    intervals = [compare_paired(values, values[::-1], seed=seed) for seed in (1, 1, 2)]
    assert intervals[0] == intervals[1] != intervals[2]


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (3, 3), (1, 9), (10, 0), (7, 2), (40, 60)])
def test_mcnemar(only_first, only_second):
    first = [True] * only_first + [False] * only_second + [True, False] * 20
    second = [False] * only_first + [True] * only_second + [True, False] * 20
    compared = compare_accuracies(first, second)
    assert (compared.num_only_first, compared.num_only_second) == (only_first, only_second)
    num_different = only_first + only_second
    tail = sum(scipy.stats.binom.pmf(count, num_different, 0.5) for count in range(min(only_first, only_second) + 1))
    assert compared.p_value == pytest.approx(min(1.0, 2 * tail))  # by hand: twice the smaller tail
    assert compared.difference == pytest.approx((only_second - only_first) / len(first))


def test_unscored_answers_are_in_neither_count():
    compared = compare_accuracies([True, None, False, True], [False, True, None, True])
    assert (compared.num_only_first, compared.num_only_second, compared.num_pairs) == (1, 0, 2)


@pytest.mark.parametrize("compare", [compare_paired, compare_accuracies])
def test_bad_pairs(compare):
    with pytest.raises(ValueError, match="both models must have the same prompts, got 2 and 1"):
        compare([1.0, 0.0], [1.0])
    with pytest.raises(ValueError, match="at least one prompt must have a value for both models, got none of 2"):
        compare([1.0, None], [None, 1.0])


def test_the_smallest_difference_is_seen_with_a_power_of_four_in_five() -> None:
    """Simulated: of true differences as large as it says, 80 % have an interval without 0."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2000, 60, generator=generator, dtype=torch.float64)
    wanted = find_smallest_difference(noise.flatten().tolist()[:60], range(60))
    assert wanted is not None
    true = (scipy.stats.t.ppf(0.975, 59) + scipy.stats.t.ppf(0.8, 59)) / 60**0.5
    assert wanted == pytest.approx(true, rel=0.2)
    seen = [cluster_interval((row + true).tolist(), range(60))[0] > 0 for row in noise[:1000]]
    assert 0.76 < sum(seen) / len(seen) < 0.84


def test_what_does_not_differ_does_not_tell_what_could_be_seen() -> None:
    assert compare_paired([1.0, 1.0], [1.0, 1.0]).smallest_difference is None
    assert compare_paired([1.0], [2.0]).smallest_difference is None


def test_differences_of_twins_have_intervals_over_clusters() -> None:
    first, second, clusters = [0.0] * 6, [1.0, 1.0, 0.0, 0.5, 0.0, 0.0], [0, 0, 1, 2, 3, 3]
    found = compare_paired([*first, None], [*second, 9.0], clusters=[*clusters, 9])
    assert (found.low, found.high) == cluster_interval(second, clusters)
    assert (found.num_clusters, found.num_pairs, found.num_total) == (4, 6, 7)


@pytest.mark.parametrize("difference", [0.0, 1.0, -1.0])
def test_pairs_that_all_differ_alike_have_no_spread_over_clusters_either(difference: float) -> None:
    """A difference of 0 for all is no share of 0, and -1 for all is as sure as 1 for all."""
    first, second = [0.5] * 8, [0.5 + difference] * 8
    found = compare_paired(first, second, clusters=[0, 0, 1, 2, 3, 4, 5, 6])
    assert (found.low, found.difference, found.high) == (difference,) * 3
    assert found.smallest_difference is None
