"""Intervals against scipy, and against what they promise."""

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_lightning.evaluation.statistics import average, bootstrap_interval, wilson_interval
from safety_lightning.evaluation.statistics import intervals as statistics


@pytest.mark.parametrize(("num_successes", "num_total"), [(0, 1), (1, 1), (0, 200), (200, 200), (7, 20), (123, 456)])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_wilson_equals_scipy(num_successes, num_total, confidence):
    expected = scipy.stats.binomtest(num_successes, num_total).proportion_ci(confidence, method="wilson")
    low, high = wilson_interval(num_successes, num_total, confidence=confidence)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= low <= num_successes / num_total <= high <= 1


def test_wilson_is_symmetric():
    low, high = wilson_interval(3, 50)
    assert wilson_interval(47, 50) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_bootstrap_agrees_with_scipy():
    values = torch.rand(300, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 3
    expected = scipy.stats.bootstrap(
        (values.numpy(),), lambda sample, axis: sample.mean(axis=axis), n_resamples=20_000, method="percentile", rng=0
    ).confidence_interval
    interval = bootstrap_interval(values, num_resamples=20_000)
    assert interval == pytest.approx((expected.low, expected.high), abs=0.002)
    assert interval[0] < values.mean() < interval[1]


def test_bootstrap_is_repeated_by_its_seed():
    values = [1.0, 1.0, 5.0, 4.2, 3.4, 1.0]
    assert bootstrap_interval(values) == bootstrap_interval(torch.tensor(values, dtype=torch.float64))
    drawn = [bootstrap_interval(values, seed=seed) for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_bootstrap_in_pieces_is_the_same(monkeypatch):
    values = torch.rand(40, generator=torch.Generator().manual_seed(2))
    weights = torch.arange(40.0)
    whole = [bootstrap_interval(values, one, num_resamples=100) for one in (None, weights)]
    monkeypatch.setattr(statistics, "_MAX_DRAWS", 40 * 7)
    assert [bootstrap_interval(values, one, num_resamples=100) for one in (None, weights)] == whole


def test_bootstrap_of_a_loss_per_token_divides_by_the_tokens_drawn():
    values, tokens = torch.tensor([3.0, 8.0, 1.0]), torch.tensor([2.0, 4.0, 1.0])
    drawn = torch.randint(3, (50, 3), generator=torch.Generator().manual_seed(4)).tolist()
    means = [sum(values[at] for at in places) / sum(tokens[at] for at in places) for places in drawn]
    low, high = bootstrap_interval(values, tokens, seed=4, num_resamples=50)
    assert (low, high) == pytest.approx(torch.tensor(means).quantile(torch.tensor([0.025, 0.975])).tolist())
    assert bootstrap_interval(values, torch.ones(3)) == bootstrap_interval(values)


def test_bootstrap_of_a_loss_that_diverged_is_not_a_number():
    assert all(end != end for end in bootstrap_interval([1.0, float("nan")], torch.ones(2)))


def test_bootstrap_leaves_the_global_state():
    state = torch.get_rng_state()
    bootstrap_interval([1.0, 2.0])
    assert torch.equal(torch.get_rng_state(), state)


def test_bootstrap_narrows_with_less_confidence_and_more_values():
    values = torch.arange(10.0)
    widths = [
        high - low
        for low, high in (
            bootstrap_interval(values),
            bootstrap_interval(values, confidence=0.5),
            bootstrap_interval(values.repeat(100)),
        )
    ]
    assert widths[0] > widths[1]
    assert widths[0] > 5 * widths[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), "num_total must be at least 1, got 0"),
        ((-1, 5), r"num_successes must be between 0 and num_total \(5\), got -1"),
        ((6, 5), r"num_successes must be between 0 and num_total \(5\), got 6"),
    ],
)
def test_wilson_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        wilson_interval(*arguments)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")], torch.zeros(2, 2)])
def test_bootstrap_refuses_bad_values(values):
    with pytest.raises(ValueError, match="values must be one or more finite numbers in one dimension, got"):
        bootstrap_interval(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -0.1, 95])
def test_confidence_is_a_fraction(confidence):
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\), got"):
        wilson_interval(1, 2, confidence=confidence)
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\), got"):
        bootstrap_interval([1.0], confidence=confidence)


def test_resamples_are_counted_from_one():
    with pytest.raises(ValueError, match="num_resamples must be at least 1, got 0"):
        bootstrap_interval([1.0], num_resamples=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1, 5), min_size=1, max_size=30), st.booleans())
def test_a_mean_lies_in_its_interval_to_the_last_digit(values: list[float], alike: bool) -> None:
    values = [values[0]] * len(values) if alike else values
    low, high = bootstrap_interval(values, num_resamples=50)
    assert min(values) <= low <= average(values) <= high <= max(values)
    weights = [float(1 + at % 7) for at in range(len(values))]
    low, high = bootstrap_interval(values, torch.tensor(weights), num_resamples=50)
    assert low <= average(values, weights) <= high
