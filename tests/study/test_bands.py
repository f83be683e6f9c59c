"""Bands: what they hold together, ties, seeds."""

import numpy as np
import pytest
from scipy import stats

from safety_lightning.study.statistics.bands import make_bands, make_interval, widen_by_seeds


def test_band_of_one_cell_is_the_percentile_interval() -> None:
    resampled = np.random.default_rng(0).normal(0, 1, 2000)
    resampled -= resampled.mean()
    low, high = make_interval(0.0, resampled, level=0.9)
    np.testing.assert_allclose([low, high], np.quantile(resampled, [0.05, 0.95]), atol=0.02)


def test_bands_hold_together_the_share_of_resamples_asked_for() -> None:
    resampled = np.random.default_rng(1).normal(0, [[1.0], [2.0], [0.1], [5.0]], (4, 4000))
    resampled -= resampled.mean(1, keepdims=True)
    low, high = make_bands(np.zeros(4), resampled, level=0.95)
    inside = ((resampled >= low[:, None]) & (resampled <= high[:, None])).all(0).mean()
    assert inside == pytest.approx(0.95, abs=0.004)
    assert high[0] > np.quantile(resampled[0], 0.985)  # wider than the interval of one cell


def test_bands_are_shifted_by_twice_the_bias_of_the_resamples() -> None:
    resampled = np.random.default_rng(2).normal(-0.3, 0.1, (1, 4000))  # around an estimate of 0, they lie too low
    low, high = make_bands(np.zeros(1), resampled, level=0.95)
    assert (low[0], high[0]) == pytest.approx((0.0, 0.5), abs=0.02)  # 0.3 - 0.2 is above the estimate, which is held


@pytest.mark.parametrize("twin", [0, 1])
def test_cell_without_spread_and_twin_constrain_nothing(twin: int) -> None:
    resampled = np.random.default_rng(3).normal(0, 1, (2, 2000))
    more = np.vstack([resampled, np.zeros(2000), resampled[twin]])
    alone, together = make_bands(np.zeros(2), resampled, level=0.95), make_bands(np.zeros(4), more, level=0.95)
    for end, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(end, other[:2])
        assert other[2] == 0
        assert other[3] == other[twin]


def test_resamples_without_a_value_are_left_out_and_few_make_no_band() -> None:
    resampled = np.random.default_rng(4).normal(0, 1, (1, 400))
    resampled[0, :100] = np.nan
    np.testing.assert_array_equal(
        make_bands(np.zeros(1), resampled, level=0.95), make_bands(np.zeros(1), resampled[:, 100:], level=0.95)
    )
    assert np.isnan(make_bands(np.zeros(1), resampled[:, :120], level=0.95)).all()


def test_seeds_alone_give_the_t_interval() -> None:
    by_seed = np.array([[0.1], [0.3], [0.2], [0.4]])
    low, high = widen_by_seeds(by_seed.mean(0), by_seed.mean(0), by_seed, level=0.95)
    wanted = stats.t.interval(0.95, 3, loc=0.25, scale=stats.sem(by_seed[:, 0]))
    assert (low[0], high[0]) == pytest.approx(wanted)


def test_two_seeds_widen_nothing_and_more_always_do() -> None:
    low, high = np.array([0.1]), np.array([0.4])
    assert widen_by_seeds(low, high, np.array([[0.0], [0.5]]), level=0.95) == (low, high)
    wide_low, wide_high = widen_by_seeds(low, high, np.array([[0.2], [0.25], [0.3]]), level=0.95)
    assert wide_low[0] < 0.1
    assert wide_high[0] > 0.4


def test_a_cell_without_an_estimate_has_no_band_and_changes_no_other() -> None:
    generator = np.random.default_rng(0)
    resampled_KB = generator.normal(size=(2, 500))
    alone = make_bands(np.zeros(2), resampled_KB, level=0.95)
    with_nan = make_bands(np.array([0.0, np.nan, 0.0]), np.insert(resampled_KB, 1, np.nan, axis=0), level=0.95)
    for one, other in zip(alone, with_nan, strict=True):
        assert np.isnan(other[1])
        assert np.array_equal(one, other[[0, 2]])
