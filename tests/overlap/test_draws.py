"""The null and the intervals: what they hold, and that draws depend on nothing but what they should."""

import math

import pytest
import torch
from torch import Tensor

from safety_lightning.overlap.activations.draws import centre, draw_null, draw_resamples, find_modes, measure_spread
from safety_lightning.subspaces import compare_modes

ETAS = (0.5, 0.8, 0.95)
PAIR = ("a", "b")


def draw(num_prompts: int, *, seed: int, first_axis: int = 0, mean: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    hidden = 0.1 * torch.randn(num_prompts, 12, generator=generator)
    hidden[:, first_axis : first_axis + 4] += torch.randn(num_prompts, 4, generator=generator)
    return hidden + mean


def draw_shuffles(hidden_a: Tensor, hidden_b: Tensor, *, num_draws: int = 40, seed: int = 0) -> Tensor:
    drawn = draw_null(hidden_a, hidden_b, PAIR, etas=ETAS, centred=True, num_draws=num_draws, seed=seed)
    return torch.tensor(drawn, dtype=torch.float64)


def measure(hidden_a: Tensor, hidden_b: Tensor) -> list[float]:
    modes = [find_modes(hidden, ETAS, centred=True) for hidden in (hidden_a, hidden_b)]
    return [overlap.mso for overlap in compare_modes(*modes)]


def test_sets_of_one_kind_lie_in_the_null_and_others_below_it() -> None:
    first, alike, other = draw(60, seed=0), draw(50, seed=1), draw(50, seed=2, first_axis=6)
    for hidden, is_below in [(alike, False), (other, True)]:
        null, values = draw_shuffles(first, hidden), measure(first, hidden)
        spreads = [measure_spread(value, null[:, at], torch.empty(0)) for at, value in enumerate(values)]
        assert [value < spread.null_low for value, spread in zip(values, spreads, strict=True)] == [is_below] * 3
        assert [spread.p_value == 1 / 41 for spread in spreads] == [is_below] * 3


def test_null_does_not_see_a_difference_of_means() -> None:
    first, other = draw(40, seed=0), draw(40, seed=1)
    torch.testing.assert_close(draw_shuffles(first, other + 3), draw_shuffles(first, other), atol=1e-4, rtol=0)


def test_null_of_p_values_is_even() -> None:
    p_values = []
    for seed in range(40):
        first, alike = draw(20, seed=2 * seed), draw(20, seed=2 * seed + 1)
        null = draw_shuffles(first, alike, num_draws=19, seed=seed)
        p_values.append(measure_spread(measure(first, alike)[1], null[:, 1], torch.empty(0)).p_value)
    assert 0.3 < sum(p_values) / len(p_values) < 0.75  # a mean of 40 even ones is 0.525, with a spread of 0.05
    assert sum(p_value <= 0.1 for p_value in p_values) <= 10


def test_interval_holds_the_expected_overlap_where_plain_percentiles_lie_too_low() -> None:
    expected = sum(measure(draw(40, seed=2000 + n), draw(40, seed=3000 + n))[2] for n in range(100)) / 100
    shifted, plain = 0, 0
    for seed in range(20):
        sets = {"a": draw(40, seed=2 * seed), "b": draw(40, seed=2 * seed + 1)}
        drawn = draw_resamples(sets, [PAIR], etas=ETAS, centred=True, num_draws=30, seed=seed)[PAIR]
        resampled = torch.tensor(drawn, dtype=torch.float64)[:, 2]
        spread = measure_spread(measure(*sets.values())[2], torch.empty(0), resampled)
        shifted += spread.low <= expected <= spread.high
        plain += bool(resampled.quantile(0.025) <= expected <= resampled.quantile(0.975))
        assert spread.resampled_mean < measure(*sets.values())[2]
    assert shifted >= 16
    assert plain < shifted


def test_draws_depend_on_seed_and_names_and_not_on_how_many_or_what_else_is_drawn() -> None:
    first, other, third = draw(20, seed=0), draw(15, seed=1), draw(12, seed=2)
    few, many = draw_shuffles(first, other, num_draws=3), draw_shuffles(first, other, num_draws=5)
    assert torch.equal(few, many[:3])
    assert not torch.equal(few, draw_shuffles(first, other, num_draws=3, seed=1))
    settings = {"etas": ETAS, "centred": True, "num_draws": 3, "seed": 0}
    alone = draw_resamples({"a": first, "b": other}, [PAIR], **settings)[PAIR]
    among = draw_resamples({"a": first, "c": third, "b": other}, [PAIR, ("a", "c")], **settings)[PAIR]
    assert alone == among
    assert alone[0] != alone[1]


def test_centring_leaves_no_rounding_noise_of_equal_activations() -> None:
    equal = torch.full((7, 3), 0.1) * torch.tensor([1.0, 1 + 1e-7, 3.0])
    assert torch.equal(centre(equal), torch.zeros(7, 3))
    assert find_modes(equal, ETAS, centred=True).rank == 0
    assert find_modes(equal, ETAS, centred=False).rank == 1
    torch.testing.assert_close(centre(draw(9, seed=0, mean=4)).mean(dim=0), torch.zeros(12), atol=1e-6, rtol=0)


def test_spread_of_what_is_not_defined_or_not_drawn_is_empty() -> None:
    draws = torch.tensor([0.1, 0.2], dtype=torch.float64)
    assert set(vars(measure_spread(None, draws, draws)).values()) == {None}
    assert set(vars(measure_spread(0.5, torch.empty(0), torch.empty(0))).values()) == {None}
    assert measure_spread(0.5, torch.tensor([math.nan, 0.6]), torch.empty(0)).p_value == pytest.approx(0.5)


def test_interval_stays_in_its_range() -> None:
    spread = measure_spread(0.99, torch.empty(0), torch.linspace(0.5, 0.9, 50, dtype=torch.float64))
    assert spread.high == 1.0
    assert spread.low == pytest.approx(0.99 - 0.19, abs=0.01)
